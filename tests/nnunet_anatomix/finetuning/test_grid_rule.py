"""Rule for spacing, patch and batch: the paper's datasets, other datasets, and invariants."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_anatomix.finetuning.grid_rule import (
    GeometryConfig,
    median_shape,
    patch_and_batch,
    patch_size,
    target_spacing,
)
from nnunet_anatomix.finetuning.memory import training_memory_gb
from pretraining.backbone.unet import UNetConfig
from pretraining.common.errors import InputError

BACKBONE = UNetConfig()
GRID = {"multiple": BACKBONE.multiple, "min_side": BACKBONE.min_side}


def planned(shape, spacing_mm, *, cases=3, channels=1, classes=2, memory_gb=8.0):
    """Apply the rule to identical scans; return spacing, patch and batch."""
    config = GeometryConfig()
    shapes, spacings = [shape] * cases, [spacing_mm] * cases
    spacing = target_spacing(spacings, shapes, config)
    extent = median_shape(np.array(spacings), np.array(shapes), spacing)
    backbone = UNetConfig(in_channels=channels)
    patch, batch = patch_and_batch(
        extent,
        config,
        **GRID,
        memory_target_gb=memory_gb,
        needed_gb=lambda patch, batch: training_memory_gb(backbone, patch, batch, classes),
    )
    return spacing, patch, batch


TABLE_8 = {
    # grid, original spacing, and the paper's training spacing, crop and number of labels
    "WUFetal": ((112, 112, 80), (3, 3, 3), (3, 3, 3), 80, 4),
    "PROMISE12": ((320, 320, 24), (0.625, 0.625, 3.6), (0.625, 0.625, 0.625), 96, 1),
    "MSD-Heart": ((320, 320, 115), (1.25, 1.25, 1.37), (1.25, 1.25, 1.37), 96, 1),
    "L2Rab-MRI": ((192, 160, 192), (2, 2, 2), (2, 2, 2), 128, 4),
    "AMOS-CT": ((512, 512, 115), (0.68, 0.68, 5), (1.5, 1.5, 2), 96, 15),
    "FeTA": ((256, 256, 256), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 128, 7),
}


@pytest.mark.parametrize("name", TABLE_8)
def test_the_papers_datasets_are_planned_as_in_table_8(name):
    shape, original, paper_spacing, paper_side, labels = TABLE_8[name]
    spacing, patch, batch = planned(shape, original, classes=labels + 1)
    ratio = np.array(spacing) / paper_spacing
    assert (ratio <= 1.35).all() and (ratio >= 1 / 1.35).all()
    assert all(abs(side - paper_side) <= 16 for side in patch) and batch == 4


OTHERS = {
    # grid, spacing, cases, channels -> spacing (mm, within 5 %) and patch
    "abdominal CT, thick slices": ((512, 512, 40), (0.7, 0.7, 5), 3, 1, (1.15, 1.15, 1.15), [112, 112, 112]),
    "crop of 35": ((35, 35, 35), (1, 1, 1), 3, 1, (1, 1, 1), [48, 48, 48]),
    "micro-CT of 600": ((600, 600, 600), (0.01, 0.01, 0.01), 3, 1, (0.0234, 0.0234, 0.0234), [112, 112, 112]),
    "cardiac cine": ((320, 320, 12), (1.4, 1.4, 8), 3, 1, (1.4, 1.4, 1.4), [112, 112, 80]),
    "CT and MR of a limb": ((220, 220, 45), (0.98, 0.98, 3.27), 5, 2, (0.98, 0.98, 0.98), [112, 112, 112]),
    "a single case": ((135, 189, 155), (0.8, 0.8, 0.8), 1, 1, (0.8, 0.8, 0.8), [112, 112, 112]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_datasets_get_a_reasonable_plan(name):
    shape, original, cases, channels, expected_spacing, expected_patch = OTHERS[name]
    spacing, patch, batch = planned(shape, original, cases=cases, channels=channels)
    np.testing.assert_allclose(spacing, expected_spacing, rtol=0.05)
    assert patch == expected_patch and batch == 4


@pytest.mark.parametrize("shape", [(1, 9, 31), (33, 47, 79), (80, 81, 500), (128, 64, 96)])
def test_patches_fit_the_network_and_contain_short_axes(shape):
    patch = patch_size(shape, 112, GeometryConfig(), **GRID)
    assert all(side % BACKBONE.multiple == 0 and BACKBONE.min_side <= side <= 112 for side in patch)
    assert all(side >= extent for side, extent in zip(patch, shape, strict=True) if extent < 80)
    assert len({side for side, extent in zip(patch, shape, strict=True) if extent >= 80}) <= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_order_of_axes_does_not_matter(order):
    shape, spacing = np.array((512, 512, 115)), np.array((0.68, 0.7, 5))
    spacings, patch, _ = planned(shape, spacing)
    turned, turned_patch, _ = planned(shape[list(order)], spacing[list(order)])
    np.testing.assert_allclose(turned, np.array(spacings)[list(order)])
    assert turned_patch == [patch[axis] for axis in order]


def test_an_axis_is_made_finer_only_beyond_the_allowed_anisotropy():
    config = GeometryConfig()
    assert target_spacing([(1, 1, 1.5)], [(64, 64, 64)], config) == [1, 1, 1.5]
    assert target_spacing([(1, 1, 1.51)], [(64, 64, 64)], config) == [1, 1, 1]


def test_no_scan_is_resampled_beyond_the_largest_grid():
    spacing = target_spacing([(0.3, 0.3, 6)], [(1024, 1024, 60)], GeometryConfig())
    assert np.prod(median_shape(np.array([(0.3, 0.3, 6)]), np.array([(1024, 1024, 60)]), spacing)) == pytest.approx(
        256**3
    )


def test_less_memory_gives_smaller_steps_that_fit():
    sizes = []
    for memory_gb in (24, 8, 6, 4, 2, 1):
        _, patch, batch = planned((256, 256, 256), (1, 1, 1), memory_gb=memory_gb)
        assert training_memory_gb(BACKBONE, patch, batch, 2) <= memory_gb
        sizes.append(np.prod(patch) * batch)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 4 * 128**3 and sizes[1] == 4 * 112**3
    with pytest.raises(InputError, match=r"needs at least .* GB"):
        planned((256, 256, 256), (1, 1, 1), memory_gb=0.6)


@pytest.mark.parametrize("wrong", [{"anisotropy": 0.5}, {"least_side": 128}, {"memory_gb": 0.0}, {"batch_size": 0}])
def test_invalid_values_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a number"):
        GeometryConfig(**wrong)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "max_patch", "factor"),
    [
        ((54, 104, 109), (3.27, 0.9766, 0.9766), 64, 2.0),  # limbs: 135 of 181 slices would need 2.12
        ((70, 89, 73), (0.8, 0.8, 0.8), 64, 89 * 0.75 / 64),  # fetal brains
        ((37, 51, 35), (1, 1, 1), 64, 1.0),  # crops that a patch contains
        ((100, 100, 100), (1, 1, 1), 96, 1.0),
        ((300, 300, 300), (1, 1, 1), 64, 2.0),
    ],
)
def test_limited_patches_get_a_coarser_grid(shape, spacing_mm, max_patch, factor):
    finest = target_spacing([spacing_mm], [shape], GeometryConfig())
    coarser = target_spacing([spacing_mm], [shape], GeometryConfig(), max_patch=max_patch)
    np.testing.assert_allclose(np.divide(coarser, finest), factor, rtol=1e-6)
    extent = median_shape(np.array([spacing_mm]), np.array([shape]), coarser)
    patch, batch = patch_and_batch(
        extent, GeometryConfig(), **GRID, memory_target_gb=8, needed_gb=lambda patch, batch: 1.0, max_patch=max_patch
    )
    assert max(patch) <= max_patch and batch == 4
    if factor < 2:
        assert (np.array(patch) >= 0.75 * np.minimum(extent, max_patch)).all()


def test_a_grid_that_is_coarse_already_is_not_made_coarser_for_the_same_reason_twice():
    config = GeometryConfig(scan_voxels=150**3)
    spacing = target_spacing([(1, 1, 1)], [(300, 300, 300)], config, max_patch=150)
    assert spacing == pytest.approx([2, 2, 2])


def test_a_limit_below_the_networks_smallest_side_is_refused():
    with pytest.raises(InputError, match=r"at least the network's 32 voxels, found 16"):
        patch_and_batch(
            (64, 64, 64), GeometryConfig(), **GRID, memory_target_gb=8, needed_gb=lambda *_: 1, max_patch=16
        )
