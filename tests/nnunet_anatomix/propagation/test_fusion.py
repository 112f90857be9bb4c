"""Label fusion: equal to definitions that are written differently, and right at its limits."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.propagation.fusion import RegisteredAtlas, fuse, fusion_weights, moved_labels

SHAPE = (9, 8, 7)


def grid(shape=SHAPE, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)) -> sitk.Image:
    image = sitk.Image(list(shape), sitk.sitkUInt8)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def atlas(labels, *, difference=1.0, displacement=None, known=None, start=None, on=None) -> RegisteredAtlas:
    on = grid() if on is None else on
    shape = on.GetSize()
    return RegisteredAtlas(
        name="a",
        labels=labels,
        label_grid=grid(labels.shape),
        displacement=torch.zeros(3, *shape) if displacement is None else displacement,
        start=start or sitk.AffineTransform(3),
        grid=on,
        difference=torch.full(shape, float(difference)) if np.isscalar(difference) else difference,
        known=torch.ones(shape) if known is None else known,
        difference_grid=on,
    )


@pytest.fixture
def labels() -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1)
    return np.digitize(noise, np.quantile(noise, (0.5, 0.7, 0.9))).astype(np.uint8)


@pytest.mark.parametrize("fusion", ["vote", "local", "joint"])
def test_an_atlas_at_its_place_gives_its_own_labels(labels, fusion):
    one = atlas(labels)
    elected, share = fuse(grid(), [one, one], fusion_weights([one, one], fusion))
    assert np.array_equal(elected, labels) and elected.dtype == labels.dtype
    assert np.allclose(share, 1)


def test_votes_are_trilinear_interpolations_of_each_label(labels):
    displacement = 0.8 * torch.from_numpy(np.random.default_rng(1).standard_normal((3, *SHAPE))).float()
    start = sitk.TranslationTransform(3, (0.3, -0.2, 0.1))
    moved = atlas(labels, displacement=displacement, start=start)
    where = np.indices(SHAPE) + displacement.numpy() + np.array([0.3, -0.2, 0.1]).reshape(3, 1, 1, 1)
    votes = np.stack([ndimage.map_coordinates((labels == value) * 1.0, where, order=1, cval=0) for value in range(4)])
    # Where all eight neighbours are outside there is no vote; the other votes are normalized.
    elected, share = fuse(grid(), [moved], torch.ones(1, *SHAPE))
    inside = ((where >= 0) & (where <= np.array(SHAPE).reshape(3, 1, 1, 1) - 1)).all(0)
    first, second = np.sort(votes, axis=0)[[-1, -2]]
    clear = inside & (first > second + 1e-4)
    assert clear.sum() > 100
    assert np.array_equal(elected[clear], votes.argmax(0)[clear])
    assert np.allclose(share[clear], first[clear], atol=1e-4)


def test_a_rotated_scan_on_another_grid_finds_the_labels(labels):
    scan = sitk.DICOMOrient(tensor_grid(labels), "RPI")
    fused = moved_labels(scan, atlas(labels))
    assert np.array_equal(fused, sitk.GetArrayFromImage(scan).transpose(2, 1, 0))


def tensor_grid(labels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    return image


def test_the_majority_wins_whatever_the_order():
    ones, twos = np.full(SHAPE, 1, np.uint8), np.full(SHAPE, 2, np.uint8)
    for order in ([ones, twos, twos], [twos, ones, twos], [twos, twos, ones]):
        atlases = [atlas(one) for one in order]
        elected, share = fuse(grid(), atlases, fusion_weights(atlases, "vote"))
        assert (elected == 2).all() and np.allclose(share, 2 / 3)


@pytest.mark.parametrize("fusion", ["local", "joint"])
def test_the_atlas_that_looks_like_the_scan_wins_where_it_does(fusion):
    left = torch.ones(SHAPE)
    left[:5] = 0.01
    atlases = [
        atlas(np.full(SHAPE, 1, np.uint8), difference=left),
        atlas(np.full(SHAPE, 2, np.uint8), difference=1.01 - left),
        atlas(np.full(SHAPE, 2, np.uint8), difference=1.01 - left),
    ]
    elected, _ = fuse(grid(), atlases, fusion_weights(atlases, fusion, window_vox=1))
    assert (elected[:5] == 1).all() and (elected[5:] == 2).all()


def test_local_weights_are_inverse_mean_differences():
    differences = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) + 0.1
    atlases = [atlas(np.zeros(SHAPE, np.uint8), difference=one) for one in differences]
    found = fusion_weights(atlases, "local", window_vox=3, sharpness=2)
    ones = ndimage.uniform_filter(np.ones(SHAPE), 3, mode="constant")
    means = np.stack([ndimage.uniform_filter(one.numpy(), 3, mode="constant") / ones for one in differences])
    assert np.allclose(found, means**-2 / (means**-2).sum(0), atol=1e-4)


def test_joint_weights_solve_the_equations_of_each_voxel():
    differences = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.5
    atlases = [atlas(np.zeros(SHAPE, np.uint8), difference=one) for one in differences]
    found = fusion_weights(atlases, "joint", window_vox=1, sharpness=2)
    for voxel in ((0, 0, 0), (4, 3, 2), (8, 7, 6)):
        errors = differences[(slice(None), *voxel)].sqrt().double().numpy()
        matrix = np.outer(errors, errors)
        weights = np.linalg.solve(matrix + 0.1 * np.diag(matrix).mean() * np.eye(3), np.ones(3)).clip(min=0)
        assert np.allclose(found[(slice(None), *voxel)], weights / weights.sum(), atol=1e-3)


@pytest.mark.parametrize("fusion", ["vote", "local", "joint"])
def test_atlases_do_not_vote_where_they_are_unknown(fusion):
    known = torch.ones(SHAPE)
    known[:4] = 0
    nowhere = torch.ones(SHAPE)
    nowhere[:2] = 0
    atlases = [
        atlas(np.full(SHAPE, 1, np.uint8), difference=0.01, known=known),
        atlas(np.full(SHAPE, 2, np.uint8), difference=1.0, known=nowhere),
    ]
    weights = fusion_weights(atlases, fusion, window_vox=1)
    assert torch.allclose(weights.sum(0)[2:], torch.ones(1)) and (weights.sum(0)[:2] == 0).all()
    elected, share = fuse(grid(), atlases, weights)
    assert (elected[:2] == 0).all() and (share[:2] == 0).all()
    assert (elected[2:4] == 2).all()


def test_the_ignore_label_has_no_vote():
    atlases = [atlas(np.full(SHAPE, 3, np.uint8)), atlas(np.full(SHAPE, 3, np.uint8)), atlas(np.ones(SHAPE, np.uint8))]
    elected, share = fuse(grid(), atlases, fusion_weights(atlases, "vote"), ignore=3)
    assert (elected == 1).all() and np.allclose(share, 1)


def test_no_difference_at_all_is_no_division_by_zero():
    atlases = [atlas(np.ones(SHAPE, np.uint8), difference=0.0) for _ in range(2)]
    for fusion in ("local", "joint"):
        weights = fusion_weights(atlases, fusion)
        assert torch.isfinite(weights).all() and torch.allclose(weights.sum(0), torch.ones(1))
