"""Tests of displacements: against ITK on any grid, inverses, and values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration import warp as warp_module
from nnunet_anatomix.registration.warp import (
    compose,
    displacement_of,
    identity,
    invert,
    itk_transform,
    jacobian_determinant,
    warp,
)
from pretraining.imaging.grids import coverage, image_tensor, index_to_mm, resample_image, tensor_image

SHAPE = (17, 13, 11)
TURNED = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.4, -0.2, 0.7).GetMatrix()
DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "permuted": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "left-handed": (0, 1, 0, 1, 0, 0, 0, 0, 1),
    "oblique": TURNED,
}


def grid(
    direction: str = "oblique",
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, float, float] = (0.8, 2.0, 3.1),
) -> sitk.Image:
    image = sitk.Image(shape, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(DIRECTIONS[direction])
    image.SetOrigin((-31.5, 12.0, 140.0))
    return image


def waves(height: float, shape: tuple[int, int, int] = SHAPE, length: float = 1.0) -> Tensor:
    """Return waves that differ along every axis, 0 at the border, so that nothing leaves it."""
    x, y, z = identity(shape)
    inside = torch.stack(
        [(math.pi * place / (side - 1)).sin() for place, side in zip((x, y, z), shape, strict=True)]
    ).prod(0)
    return (
        height
        * inside
        * torch.stack([torch.sin(y / length / 3 + 1), torch.cos(z / length / 4), torch.sin(x / length / 5 - 1)])
    )


def linear(matrix: Tensor, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Return the displacement of ``p -> centre + matrix @ (p - centre)``."""
    centre = (torch.tensor(shape) - 1) / 2
    from_centre = identity(shape) - centre.view(3, 1, 1, 1)
    return torch.einsum("ij,jxyz->ixyz", matrix - torch.eye(3), from_centre)


def scan(like: sitk.Image) -> sitk.Image:
    x, y, z = identity(like.GetSize())
    return tensor_image(torch.sin(x / 2) + torch.cos(y / 3) * torch.sin(z / 2 + x / 4), like)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_itk_takes_points_where_the_displacement_takes_voxels(direction):
    space, displacement = grid(direction), waves(1.7)
    transform = itk_transform(displacement, space)
    for index in [(0, 0, 0), (8, 6, 5), (3, 9, 2), (15, 1, 7), (16, 12, 10)]:
        there = [float(place + step) for place, step in zip(index, displacement[(slice(None), *index)], strict=True)]
        expected = space.TransformContinuousIndexToPhysicalPoint(there)
        assert transform.TransformPoint(space.TransformIndexToPhysicalPoint(index)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_displacements_come_back_from_itk(direction):
    displacement = waves(2.5) + torch.tensor([0.5, -1.0, 2.0]).view(3, 1, 1, 1)
    assert torch.allclose(
        displacement_of(itk_transform(displacement, grid(direction)), grid(direction)), displacement, atol=1e-4
    )


def test_any_transform_of_itks_becomes_a_displacement():
    space, transform = grid(), sitk.TranslationTransform(3, (4.0, -2.0, 7.0))
    steps = np.linalg.inv(index_to_mm(space)) @ (4.0, -2.0, 7.0)
    assert np.allclose(displacement_of(transform, space).movedim(0, -1), steps, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_images_are_warped_as_by_itks_resampler(direction, mode):
    image, displacement = scan(grid(direction)), waves(2.0)
    expected = image_tensor(
        resample_image(image, image, itk_transform(displacement, image), nearest=mode == "nearest", outside=0)
    )
    ours = warp(image_tensor(image)[None], displacement, mode=mode)[0]
    inside = (slice(2, -2),) * 3
    differs = (ours - expected)[inside].abs() > 1e-4
    # Where two voxels are equally near, rounding decides.
    assert differs.float().mean() <= (0 if mode == "bilinear" else 0.01)
    assert (ours - image_tensor(image))[inside].abs().max() > 0.5


def test_beyond_the_volume_are_zeros_or_its_border():
    volume, step = torch.full((1, *SHAPE), 3.0), torch.zeros(3, *SHAPE)
    step[0] = 5
    expected = volume.clone()
    expected[:, -5:] = 0
    assert torch.allclose(warp(volume, step), expected, atol=1e-5)
    assert torch.allclose(warp(volume, step, beyond="border"), volume)


def test_composition_goes_first_through_the_first():
    first = torch.tensor([[1.0, 0.1, 0.0], [0.0, 0.9, 0.05], [0.1, 0.0, 1.0]])
    then = torch.tensor([[0.9, 0.0, 0.1], [0.2, 1.0, 0.0], [0.0, -0.1, 1.0]])
    inside = (slice(None), *(slice(3, -3),) * 3)
    found = compose(linear(first), linear(then))
    assert torch.allclose(found[inside], linear(then @ first)[inside], atol=1e-4)
    assert not torch.allclose(found[inside], linear(first @ then)[inside], atol=1e-2)


@pytest.mark.parametrize("large", [24, 1000], ids=["from half the resolution", "at once"])
def test_a_smooth_displacement_and_its_inverse_cancel(monkeypatch, large):
    monkeypatch.setattr(warp_module, "_COARSE_TO_FINE_SIDE", large)
    shape = (33, 25, 29)
    displacement = waves(2.5, shape, length=3.0)
    inverse = invert(displacement)
    assert displacement.norm(dim=0).max() > 2 and jacobian_determinant(displacement).min() > 0
    # At voxels the iteration converges closely; between voxels the inverse is linear, which adds
    # a small error.
    assert compose(inverse, displacement).norm(dim=0).max() < 0.02
    assert compose(displacement, inverse).norm(dim=0).max() < 0.05


def test_linear_displacements_change_volumes_by_their_determinant():
    for matrix in (
        torch.diag(torch.tensor([1.1, 0.8, 1.3])),
        torch.tensor([[1.0, 0.3, 0.1], [-0.2, 1.2, 0.0], [0.0, 0.4, 0.7]]),
    ):
        determinant = jacobian_determinant(linear(matrix))
        assert determinant.shape == SHAPE and torch.allclose(
            determinant, torch.linalg.det(matrix).expand(SHAPE), atol=1e-4
        )
    assert jacobian_determinant(linear(torch.diag(torch.tensor([-1.0, 1.0, 1.0])))).max() == pytest.approx(-1, abs=1e-4)


def test_curved_displacements_change_volumes_from_place_to_place():
    x, y, _ = identity(SHAPE)
    displacement = torch.stack([0.02 * x.square(), 0.3 * x, 0.1 * y])
    assert torch.allclose(jacobian_determinant(displacement)[1:-1], 1 + 0.04 * x[1:-1], atol=1e-4)


def test_coverage_is_where_the_image_lies():
    image = grid("flipped", spacing=(2.0, 2.0, 2.0))
    assert coverage(image, image).min() == 1
    half = image[5:, :, :-3]
    expected = torch.zeros(SHAPE)
    expected[5:, :, :-3] = 1
    assert torch.equal(coverage(half, image), expected)
    # The transform adds two voxels along X, so the image appears two voxels earlier.
    forward = itk_transform(torch.tensor([2.0, 0.0, 0.0]).view(3, 1, 1, 1).expand(3, *SHAPE), image)
    assert torch.equal(coverage(half, image, forward), torch.cat([expected[2:], torch.zeros(2, *SHAPE[1:])]))
