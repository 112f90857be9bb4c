"""Shapes without anatomy: the label of a voxel is that of the brightest warped noise image."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from pretraining.common.random import sample_generator
from pretraining.engine import smshapes
from pretraining.engine.fields import SmoothNoise, smooth_noise
from pretraining.engine.smshapes import SmShapes, SmShapesConfig, render_smshapes, sample_smshapes

SHAPE = (48, 64, 40)
FEW = SmShapesConfig(shape_count=(6, 6))


def plainly(params: SmShapes) -> np.ndarray:
    """Compute the shapes with SciPy, with every field at every voxel."""
    step = (np.array(params.shape) - 1) / (np.array(params.points) - 1)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in params.shape], indexing="ij"))
    images = []
    for image, warp in zip(params.images, params.warps, strict=True):
        # As many nodes on the volume as on the grid of points, so that the same noise is drawn.
        wide = [tuple(s * params.shape[0] / params.points[0] for s in noise.scales_vox) for noise in (image, warp)]
        values = smooth_noise(
            params.shape, SmoothNoise(scales_vox=wide[0], stds=image.stds, noise_seed=image.noise_seed)
        )[0]
        moved = smooth_noise(
            params.shape, SmoothNoise(scales_vox=wide[1], stds=warp.stds, noise_seed=warp.noise_seed), channels=3
        )
        images.append(
            ndimage.map_coordinates(
                values.numpy(), grid + moved.numpy() * step.reshape(3, 1, 1, 1), order=1, mode="nearest"
            )
        )
    return np.argmax(images, axis=0)


def test_what_is_drawn():
    drawn = [sample_smshapes(SmShapesConfig(), (128, 128, 128), sample_generator(0, index)) for index in range(300)]
    counts = np.array([params.label_count for params in drawn])
    assert (counts.min(), counts.max()) == (20, 40) and abs(counts.mean() - 30) < 1.2
    for params in drawn[:10]:
        noises = params.images + params.warps
        assert (
            len(params.images) == len(params.warps)
            and len({noise.noise_seed for noise in noises}) == 2 * params.label_count
        )
        # All labels of one volume share their stds.
        assert len({noise.stds for noise in params.images}) == 1 and len({noise.stds for noise in params.warps}) == 1
    warp_stds = np.array([params.warps[0].stds for params in drawn]) * 128 / drawn[0].points[0]
    assert warp_stds.min() >= 0 and 15 < warp_stds.max() <= 16 and warp_stds.shape[1] == 3


@pytest.mark.parametrize("index", range(3))
def test_equals_scipy_where_fields_are_made_at_every_voxel(index):
    params = sample_smshapes(FEW, SHAPE, sample_generator(0, index))
    assert params.points == SHAPE
    assert (render_smshapes(params).numpy() != plainly(params)).mean() < 1e-3


@pytest.mark.parametrize("index", range(3))
def test_fields_made_at_fewer_points_hardly_move_a_border(index):
    coarse = SmShapesConfig(shape_count=(6, 6), image_scales_vox=(64.0, 128.0), warp_scales_vox=(64.0, 128.0))
    params = sample_smshapes(coarse, (64, 96, 80), sample_generator(0, index))
    assert params.points == (16, 24, 20)
    assert (render_smshapes(params).numpy() != plainly(params)).mean() < 0.02


def test_the_order_of_labels_does_not_matter():
    params = sample_smshapes(FEW, SHAPE, sample_generator(0, 5))
    reversed_params = dataclasses.replace(params, images=params.images[::-1], warps=params.warps[::-1])
    assert torch.equal(render_smshapes(reversed_params), 5 - render_smshapes(params))


def test_shapes_scale_with_the_side():
    large, small = (
        render_smshapes(sample_smshapes(SmShapesConfig(), (side,) * 3, sample_generator(0, 1))) for side in (128, 64)
    )
    there = torch.linspace(0, 127, 64).round().long()
    assert (large[there][:, there][:, :, there] == small).float().mean() > 0.95


def test_no_volume_is_constant_and_label_0_is_one_of_many():
    shares = []
    for index in range(40):
        params = sample_smshapes(SmShapesConfig(), (32, 32, 48), sample_generator(3, index))
        labels = render_smshapes(params)
        assert labels.dtype == torch.uint8 and labels.shape == (32, 32, 48) and labels.max() < params.label_count
        assert len(labels.unique()) >= 4
        shares.append((labels == 0).float().mean().item() * params.label_count)
    assert 0.4 < np.mean(shares) < 1.8


def test_shapes_depend_on_the_draw_alone():
    before = torch.get_rng_state()
    first, again, other = (
        render_smshapes(sample_smshapes(FEW, SHAPE, sample_generator(0, index))) for index in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_devices_way_equals_the_hosts():
    params = sample_smshapes(SmShapesConfig(), (64, 72, 80), sample_generator(0, 0))
    values = smooth_noise(params.points, params.images[0])[0]
    displacement = smooth_noise(params.points, params.warps[0], channels=3)
    warped = smshapes._warp_on_host(values, displacement)
    assert torch.allclose(warped, smshapes._warp_on_device(values, displacement), atol=1e-4)
    brightest = torch.zeros(2, *SHAPE)
    labels = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    smshapes._keep_brightest_on_host(3, warped, brightest[0], labels[0])
    smshapes._keep_brightest_on_device(3, warped, brightest[1], labels[1])
    assert torch.allclose(*brightest, atol=1e-5) and (labels[0] != labels[1]).float().mean() < 1e-3
    assert 0 < (labels[0] == 3).float().mean() < 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape_count": (1, 3)},
        {"shape_count": (5, 4)},
        {"shape_count": (20, 251)},
        {"image_scales_vox": ()},
        {"warp_scales_vox": (16.0, 0.0)},
        {"max_warp_std_vox": -1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        SmShapesConfig(**wrong)
