"""The number that predicts Dice: differences count at the borders of labels, and where known."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.propagation.difference import difference_at_borders
from nnunet_anatomix.propagation.fusion import RegisteredAtlas

SIDE = 16
CUBES = (SIDE // 2,) * 3


def image(side: int, spacing_mm: float) -> sitk.Image:
    found = sitk.Image([side] * 3, sitk.sitkUInt8)
    found.SetSpacing([spacing_mm] * 3)
    return found


@pytest.fixture
def labels() -> np.ndarray:
    found = np.zeros((SIDE,) * 3, np.uint8)
    found[2:14, 2:14, 2:14] = 1
    found[8:14, 2:14, 2:14] = 3
    return found


@pytest.fixture
def atlas(labels) -> RegisteredAtlas:
    return RegisteredAtlas(
        name="a",
        labels=labels,
        label_grid=image(SIDE, 1.0),
        displacement=torch.zeros(3, *labels.shape),
        start=sitk.AffineTransform(3),
        grid=image(SIDE, 1.0),
        difference=torch.rand(CUBES, generator=torch.Generator().manual_seed(0)),
        known=torch.ones(CUBES),
        difference_grid=image(SIDE // 2, 2.0),
    )


def cubes_at_borders(labels: np.ndarray) -> np.ndarray:
    cross = ndimage.generate_binary_structure(3, 1)
    borders = ndimage.grey_dilation(labels, footprint=cross) != ndimage.grey_erosion(labels, footprint=cross)
    return borders.reshape(SIDE // 2, 2, SIDE // 2, 2, SIDE // 2, 2).any(axis=(1, 3, 5))


def test_the_difference_is_the_mean_over_cubes_at_borders(labels, atlas):
    at_border = cubes_at_borders(labels)
    assert 0 < at_border.sum() < at_border.size
    expected = atlas.difference.numpy()[at_border].mean()
    assert difference_at_borders(image(SIDE, 1.0), labels, [atlas]) == pytest.approx(expected)


def test_cubes_that_an_atlas_does_not_cover_do_not_count(labels, atlas):
    known = torch.ones(CUBES)
    known[:4] = 0
    half = replace(atlas, known=known)
    expected = atlas.difference.numpy()[4:][cubes_at_borders(labels)[4:]].mean()
    assert difference_at_borders(image(SIDE, 1.0), labels, [half]) == pytest.approx(expected)
    nowhere = replace(atlas, known=torch.zeros(CUBES))
    assert difference_at_borders(image(SIDE, 1.0), labels, [half, nowhere]) == pytest.approx(expected)
    assert isnan(difference_at_borders(image(SIDE, 1.0), labels, [nowhere]))


def test_without_labels_all_cubes_count(labels, atlas):
    found = difference_at_borders(image(SIDE, 1.0), np.zeros_like(labels), [atlas])
    assert found == pytest.approx(float(atlas.difference.mean()))
