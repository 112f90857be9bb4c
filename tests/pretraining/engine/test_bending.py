"""Bent templates equal lookups in whole arrays at displaced coordinates, on host and device."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.engine import placement
from pretraining.engine.affine import AffineConfig, sample_affine
from pretraining.engine.bending import Bend, BendConfig, bend_curves, sample_bend
from pretraining.engine.ensemble import PLACEMENTS, EnsembleConfig, render_ensemble, sample_ensemble
from pretraining.templates.procedural import procedural_bank
from tests.oracles.label_ensemble import mapped_coordinates, near_a_border, padded

SHAPE = (32, 24, 40)
CROPS = [(9, 12, 7), (40, 5, 21), (61, 33, 47)]


@pytest.fixture(scope="module")
def bank() -> TemplateBank:
    rng = np.random.default_rng(0)
    masks = [rng.random(crop) < 0.4 for crop in CROPS]
    for mask in masks:
        mask[0, 0, 0] = mask[-1, -1, -1] = True
    return TemplateBank.from_masks(masks, ["blob"] * len(masks), source="test", spacing_mm=1.5)


def displacement(bend: Bend, shape: tuple[int, int, int]) -> np.ndarray:
    """Compute the displacement at each voxel, (3, X, Y, Z), voxels of the template."""
    along_x, along_y, along_z = bend_curves(bend, shape)
    return along_x[:, :, None, None] + along_y[:, None, :, None] + along_z[:, None, None, :]


# The strongest rises and falls along one row, over more than the template.
@pytest.mark.parametrize("std_vox", [0.0, 2.0, 15.0])
@pytest.mark.parametrize("template", range(len(CROPS)))
@pytest.mark.parametrize("straight", [True, False])
def test_equals_scipy_on_host_and_device(bank, template, std_vox, straight):
    for index in range(4):
        # Without a rotation, bending alone decides which way a coordinate goes along a row.
        matrix = np.eye(3, 4) if straight else sample_affine(AffineConfig(), sample_generator(0, index))
        bend = Bend(spacing_vox=9.0, std_vox=std_vox, noise_seed=index)
        placed = PLACEMENTS["published"](matrix, bank.shape(template), SHAPE, bend_curves(bend, SHAPE))
        on_host, as_on_device = (torch.zeros(SHAPE, dtype=torch.uint8) for _ in range(2))
        placement.paste_templates(on_host, [bank.packed(template)], [placed])
        placement._paste_one_by_one(as_on_device, [bank.packed(template)], [placed])
        assert torch.equal(on_host, as_on_device)
        where = mapped_coordinates(matrix, SHAPE) + displacement(bend, SHAPE)
        box = padded(bank.mask(template).numpy().astype(np.uint8), SHAPE)
        expected = ndimage.map_coordinates(box, where, order=0, mode="grid-wrap")
        assert not ((on_host.numpy() != expected) & ~near_a_border(where, 2e-4)).any()


def test_nothing_comes_twice_where_the_template_does_not_repeat(bank):
    for index in range(4):
        bend = Bend(spacing_vox=9.0, std_vox=25.0, noise_seed=index)
        placed = PLACEMENTS["paper"](np.eye(3, 4), bank.shape(0), SHAPE, bend_curves(bend, SHAPE))
        labels = torch.zeros(SHAPE, dtype=torch.uint8)
        placement.paste_templates(labels, [bank.packed(0)], [placed])
        where = mapped_coordinates(np.eye(3, 4), SHAPE) + displacement(bend, SHAPE)
        box = padded(bank.mask(0).numpy().astype(np.uint8), SHAPE)
        expected = ndimage.map_coordinates(box, where, order=0, mode="grid-constant")
        assert not ((labels.numpy() != expected) & ~near_a_border(where, 2e-4)).any()


def test_curves_have_the_drawn_strength_and_are_smooth():
    shape = (70, 64, 58)
    values = [bend_curves(Bend(spacing_vox=20.0, std_vox=3.0, noise_seed=seed), shape) for seed in range(300)]
    for axis, size in enumerate(shape):
        curves = np.stack([curve[axis] for curve in values])
        assert curves.shape == (300, 3, size)
        assert abs(curves.mean()) < 0.2 and abs(curves.std() - 3.0) < 0.2
        assert np.abs(curves.std(axis=(0, 1)) - 3.0).max() < 0.6
        # Root mean square slope of a cubic B-spline: sqrt((2 / 3) / (151 / 315)) in standard
        # deviations per spacing.
        assert np.isclose(np.sqrt(np.mean(np.diff(curves) ** 2)), 1.18 * 3.0 / 20.0, rtol=0.1)
    again = bend_curves(Bend(spacing_vox=20.0, std_vox=3.0, noise_seed=7), shape)
    assert all(np.array_equal(one, other) for one, other in zip(values[7], again, strict=True))


def test_bending_changes_nothing_else_that_is_drawn():
    bank = procedural_bank(count=4)
    bent_config = EnsembleConfig(bend=BendConfig(probability=0.5))
    for index in range(5):
        plain, bent = (
            sample_ensemble(config, SHAPE, bank, sample_generator(0, index))
            for config in (EnsembleConfig(), bent_config)
        )
        assert set(plain.bends) == {None} and len(plain.bends) == len(plain.templates)
        assert plain.templates == bent.templates and plain.foreground == bent.foreground
        assert np.array_equal(plain.affines, bent.affines)
        assert 0 < sum(bend is not None for bend in bent.bends) < len(bent.bends)
        labels = render_ensemble(bent, bank)
        assert torch.equal(labels, render_ensemble(bent, bank))
        assert not torch.equal(labels, render_ensemble(plain, bank))
        assert torch.equal(
            render_ensemble(dataclasses.replace(bent, bends=plain.bends), bank), render_ensemble(plain, bank)
        )


def test_share_and_ranges_of_bends():
    config = BendConfig(probability=0.3, spacing_vox=(10.0, 20.0), max_std_vox=5.0)
    drawn = [sample_bend(config, sample_generator(0, index)) for index in range(1000)]
    bends = [bend for bend in drawn if bend is not None]
    assert abs(len(bends) - 300) < 50
    spacings, stds = (np.array([getattr(bend, name) for bend in bends]) for name in ("spacing_vox", "std_vox"))
    assert 10 <= spacings.min() < 11 and 19 < spacings.max() <= 20
    assert 0 <= stds.min() < 0.5 and 4.5 < stds.max() <= 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 1.5},
        {"spacing_vox": (0.5, 3.0)},
        {"spacing_vox": (9.0, 3.0)},
        {"spacing_vox": (9.0, float("inf"))},
        {"max_std_vox": -1.0},
        {"max_std_vox": float("nan")},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        BendConfig(**wrong)
