"""Flips and affine maps are the same for labels and views."""

import numpy as np
import pytest
import torch
import torchio
from scipy import ndimage

from pretraining.common.random import sample_generator
from pretraining.engine.affine import AffineConfig, sample_affine
from pretraining.engine.geometry import Geometry, GeometryConfig, apply_geometry, sample_geometry
from pretraining.engine.online import clip_above
from pretraining.engine.resample import resample_labels, resample_linear

SHAPE = (14, 19, 11)


def sample(shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8), torch.rand(
        (2, *shape), generator=generator
    )


@pytest.mark.parametrize(
    "scales, angles", [((1.3, 0.7, 1.0), (20.0, -35.0, 40.0)), ((0.6, 1.4, 1.1), (0.0, 0.0, 30.0))]
)
def test_affine_equals_torchio(scales, angles):
    labels, views = sample()
    mapped_labels, mapped_views = apply_geometry(
        labels, views, Geometry(flipped_axes=(), scales=scales, angles_deg=angles)
    )
    subject = torchio.Subject(
        view1=torchio.ScalarImage(tensor=views[:1]),
        view2=torchio.ScalarImage(tensor=views[1:]),
        labels=torchio.LabelMap(tensor=labels[None]),
    )
    expected = torchio.Affine(scales=scales, degrees=angles, translation=(0, 0, 0))(subject)
    for mapped, name in zip(mapped_views, ("view1", "view2"), strict=True):
        torch.testing.assert_close(mapped, expected[name].data[0], atol=1e-4, rtol=1e-4)
    # Nearest may go either way where a position lies between two voxels.
    assert (mapped_labels != expected["labels"].data[0]).float().mean() < 0.002


def test_flips_move_everything_alike():
    labels, views = sample()
    flipped_labels, flipped_views = apply_geometry(
        labels, views, Geometry(flipped_axes=(0, 2), scales=None, angles_deg=None)
    )
    assert torch.equal(flipped_labels, labels.flip(0, 2)) and torch.equal(flipped_views, views.flip(1, 3))


def test_labels_follow_the_views():
    labels = torch.zeros((40, 36, 32), dtype=torch.uint8)
    labels[8:30, 10:22, 12:26] = 1
    views = torch.stack([labels.float(), 1 - labels.float()])
    for index in range(5):
        params = sample_geometry(GeometryConfig(affine_probability=1.0), sample_generator(0, index))
        mapped_labels, mapped_views = apply_geometry(labels, views, params)
        assert mapped_labels.any()
        inside = ndimage.binary_erosion(mapped_labels.numpy())
        assert (mapped_views[0].numpy()[inside] > 0.5).mean() > 0.98


@pytest.mark.parametrize("index", range(3))
def test_resampling_equals_scipy_inside(index):
    labels, views = sample((20, 24, 18))
    matrix = sample_affine(AffineConfig(), sample_generator(1, index))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in labels.shape], indexing="ij"))
    where = np.tensordot(matrix[:, :3], grid, axes=1) + matrix[:, 3].reshape(3, 1, 1, 1)
    inside = np.all([(c >= 0) & (c <= n - 1) for c, n in zip(where, labels.shape, strict=True)], axis=0)
    expected = ndimage.map_coordinates(views[0].numpy().astype(np.float64), where, order=1)
    assert np.abs(resample_linear(views, matrix)[0].numpy() - expected)[inside].max(initial=0) < 1e-4
    nearest = ndimage.map_coordinates(labels.numpy(), where, order=0)
    sure = inside & (np.abs(where - np.floor(where) - 0.5) > 1e-4).all(0)
    assert np.array_equal(resample_labels(labels, matrix).numpy()[sure], nearest[sure])


def test_outside_is_the_least_value_and_the_background():
    labels, views = sample()
    far_away = np.column_stack([np.eye(3), [100.0, 0.0, 0.0]])
    assert not resample_labels(labels, far_away).any()
    assert torch.equal(resample_linear(views, far_away)[0], views[0].min().expand(SHAPE))


def test_shares_of_flips_and_affines():
    drawn = [sample_geometry(GeometryConfig(), sample_generator(2, index)) for index in range(600)]
    flips = np.array([[axis in params.flipped_axes for axis in range(3)] for params in drawn])
    assert np.abs(flips.mean(0) - 0.45).max() < 0.07
    mapped = [params for params in drawn if params.scales is not None]
    assert abs(len(mapped) / len(drawn) - 0.5) < 0.07
    scales, angles = np.array([params.scales for params in mapped]), np.array([params.angles_deg for params in mapped])
    assert scales.min() >= 0.6 and scales.max() <= 1.4 and scales.max() - scales.min() > 0.75
    assert np.abs(angles).max() <= 45 and abs(angles.mean()) < 3


@pytest.mark.parametrize("quantile", [1.0, 0.9999, 0.99, 0.5])
def test_clipping_at_a_quantile_equals_numpy(quantile):
    # Neither 0 nor 255 occurs, and the values are not equally frequent.
    volumes = (torch.rand((2, 21, 20, 22), generator=torch.Generator().manual_seed(0)) ** 2 * 240 + 7).to(torch.uint8)
    volumes[1] //= 2
    for volume, found in zip(volumes.numpy(), clip_above(volumes, quantile).numpy(), strict=True):
        clipped = np.minimum(volume, np.quantile(volume.astype(np.float64), quantile))
        expected = (clipped - clipped.min()) / (clipped.max() - clipped.min())
        assert np.abs(found - expected).max() < 1e-5


def test_clipping_a_constant_volume_gives_zero():
    assert not clip_above(torch.full((2, 3, 4, 5), 9, dtype=torch.uint8), 0.9).any()


@pytest.mark.parametrize("wrong", [{"scale": (0.0, 1.0)}, {"flip_probability": 1.2}, {"max_rotation_deg": -1.0}])
def test_impossible_geometry_is_refused(wrong):
    with pytest.raises(ValueError):
        GeometryConfig(**wrong)
