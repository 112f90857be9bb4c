"""Local intensities equal a plain reference and do not depend on scale and offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from pretraining.imaging.local_intensity import SIGMA, local_intensity


def volume(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def box(*shape: int) -> Tensor:
    """A foreground that leaves two voxels at every face."""
    return functional.pad(torch.ones([side - 4 for side in shape]), (2,) * 6)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_as_a_plain_reference(pool):
    shape = (17, 23, 12)
    cubes, weight = (
        functional.avg_pool3d(each[None], pool)[0].double().numpy() for each in (volume(*shape), box(*shape))
    )

    def local_mean(values: np.ndarray) -> np.ndarray:
        blurred = [
            ndimage.gaussian_filter(each, SIGMA / pool, mode="nearest", truncate=3)
            for each in (values * weight, weight)
        ]
        return blurred[0] / blurred[1]

    mean = np.average(cubes, weights=weight)
    standardized = (cubes - mean) / np.sqrt(np.average((cubes - mean) ** 2, weights=weight))
    centred = standardized - local_mean(standardized)
    expected = np.clip(centred / np.sqrt(local_mean(centred**2) + 0.1**2), -8, 8)
    np.testing.assert_allclose(local_intensity(volume(*shape), box(*shape), pool=pool), expected, atol=1e-4)


def test_scale_and_offset_do_not_matter():
    image, foreground = volume(11, 14, 9), box(11, 14, 9)
    found = local_intensity(image, foreground)
    torch.testing.assert_close(local_intensity(300 * image - 20, foreground), found, atol=1e-3, rtol=0)
    torch.testing.assert_close(local_intensity(1 - image, foreground), -found, atol=1e-3, rtol=0)


def test_a_bias_field_matters_little():
    """A smooth factor of 1 to 3 changes intensities by their own size, local ones hardly."""
    image, foreground = volume(40, 30, 20), torch.ones(40, 30, 20)
    biased = image * torch.linspace(1, 3, 40)[:, None, None]
    found = torch.stack([local_intensity(each, foreground).flatten() for each in (image, biased)])
    assert torch.corrcoef(found)[0, 1] > 0.98
    assert torch.corrcoef(torch.stack([image.flatten(), biased.flatten()]))[0, 1] < 0.9


def test_the_background_does_not_matter_to_the_foreground():
    image, foreground = volume(20, 18, 16), box(20, 18, 16)
    changed = torch.where(foreground > 0, image, -100.0)
    inside = foreground > 0
    found, expected = local_intensity(changed, foreground), local_intensity(image, foreground)
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-4, rtol=0)
    assert (found[~inside] == -8).all()


def test_a_constant_image_is_zero_everywhere():
    image = torch.full((9, 8, 7), 40.0)
    assert not local_intensity(image, torch.ones_like(image)).any()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected two volumes"):
        local_intensity(volume(1, 9, 8, 7), volume(1, 9, 8, 7))
    with pytest.raises(ValueError, match="expected two volumes"):
        local_intensity(volume(9, 8, 7), volume(9, 8, 6))
