"""Grids are equal if their voxels coincide, and resampling keeps positions in space."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pretraining.common.errors import InputError
from pretraining.imaging.grids import (
    ROUNDED_HEADERS_VOX,
    Grid,
    corner_distance_vox,
    image_on,
    image_tensor,
    index_to_mm,
    near_isotropic_grid,
    resample_image,
    resample_isotropic,
    same_grid,
    tensor_image,
)

SHAPE = (17, 13, 11)
DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "permuted": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "oblique": sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.4, -0.2, 0.7).GetMatrix(),
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


def scan(like: sitk.Image) -> sitk.Image:
    x, y, z = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in like.GetSize()), indexing="ij")
    return tensor_image(torch.sin(x / 2) + torch.cos(y / 3) * torch.sin(z / 2 + x / 4), like)


def moved(like: Grid, axis: int, vox: float) -> Grid:
    """Shift the grid along one of its axes, in voxels."""
    return replace(like, origin_mm=tuple(like.origin_mm + vox * like.steps_mm[:, axis]))


def turned(like: Grid, vox: float) -> Grid:
    """Rotate the grid, so that the end of its second axis moves by so many voxels."""
    angle = math.asin(vox * like.spacing_mm[0] / ((like.size[1] - 1) * like.spacing_mm[1]))
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    return replace(like, direction=tuple((np.reshape(like.direction, (3, 3)) @ turn).ravel()))


def stretched(like: Grid, vox: float) -> Grid:
    """Change the spacing, so that the end of the last axis moves by so many voxels."""
    *others, last = like.spacing_mm
    return replace(like, spacing_mm=(*others, last * (1 + vox / (like.size[2] - 1))))


CHANGES = {
    "moved along x": lambda like, vox: moved(like, 0, vox),
    "moved along z": lambda like, vox: moved(like, 2, vox),
    "turned": turned,
    "stretched": stretched,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_grids_are_the_same_to_a_thousandth_of_a_voxel_at_the_farthest_corner(direction, change):
    space = Grid.of(grid(direction))
    assert same_grid(space, change(space, 0.9e-3)) and not same_grid(space, change(space, 1.2e-3))
    assert corner_distance_vox(space, change(space, 0.05)) == pytest.approx(0.05, rel=0.02)
    assert same_grid(space, change(space, 0.09), within_vox=ROUNDED_HEADERS_VOX)
    assert not same_grid(space, change(space, 0.12), within_vox=ROUNDED_HEADERS_VOX)


def test_images_and_grids_compare_alike():
    image = grid()
    other = Grid.of(image[1:])
    for first in (image, Grid.of(image)):
        assert same_grid(first, image) and same_grid(first, Grid.of(image)) and not same_grid(first, other)
    flipped = sitk.Flip(image, (False, True, False))
    assert flipped.GetSize() == SHAPE and not same_grid(image, flipped)


def test_values_on_a_grid_lie_where_it_does():
    image = scan(grid())
    again = image_on(Grid.of(image), sitk.GetArrayFromImage(image))
    assert Grid.of(again) == Grid.of(image) and again[3, 9, 2] == image[3, 9, 2]
    point = np.array(image.TransformIndexToPhysicalPoint((3, 9, 2)))
    assert np.allclose(index_to_mm(image) @ (3, 9, 2) + image.GetOrigin(), point)


def test_tensors_have_the_axes_of_itks_indices():
    image = scan(grid("permuted"))
    volume = image_tensor(image)
    assert volume.shape == SHAPE and volume[3, 9, 2] == pytest.approx(image[3, 9, 2])
    again = tensor_image(volume, image)
    assert (
        again[3, 9, 2] == image[3, 9, 2]
        and again.GetDirection() == image.GetDirection()
        and again.GetOrigin() == image.GetOrigin()
    )


def test_grids_whose_axes_are_alike_stay_as_they_are():
    for spacing in ((1.0, 1.0, 1.0), (2.0, 1.4, 1.9)):
        image = grid(spacing=spacing)
        same = near_isotropic_grid(image)
        assert same.GetSize() == image.GetSize() and same.GetSpacing() == image.GetSpacing()
        assert same.GetOrigin() == image.GetOrigin() and same.GetDirection() == image.GetDirection()


@pytest.mark.parametrize(
    ("options", "spacing"),
    [({}, 0.8), ({"spacing_mm": 1.3}, 1.3), ({"spacing_mm": 50}, 50), ({"at_most_voxels": 2000}, None)],
)
def test_grids_cover_the_box_closely(options, spacing):
    image = grid("permuted")
    found = near_isotropic_grid(image, **options)
    assert np.ptp(found.GetSpacing()) == pytest.approx(0)
    step = found.GetSpacing()[0]
    assert spacing is None or step == pytest.approx(spacing)
    assert found.GetNumberOfPixels() <= options.get("at_most_voxels", math.inf)
    assert found.GetOrigin() == pytest.approx(image.GetOrigin()) and found.GetDirection() == image.GetDirection()
    lengths = (np.array(image.GetSize()) - 1) * image.GetSpacing()
    reached = (np.array(found.GetSize()) - 1) * step
    assert (reached >= lengths - 1e-6).all() and (reached < lengths + step).all()


def test_no_more_voxels_are_given_up_than_must_be():
    image = grid(spacing=(1.0, 1.0, 1.0), shape=(40, 30, 20))
    found = near_isotropic_grid(image, at_most_voxels=6000)
    assert 0.8 * 6000 < found.GetNumberOfPixels() <= 6000


def test_resampled_images_are_dark_where_nothing_is_known():
    image = scan(grid()) - 5.0
    far = sitk.TranslationTransform(3, (1000.0, 0.0, 0.0))
    assert image_tensor(resample_image(image, image, far)).unique().item() == pytest.approx(
        image_tensor(image).min().item()
    )
    labels = sitk.Cast(image > -5, sitk.sitkInt32) + 1
    assert image_tensor(resample_image(labels, image, far, nearest=True)).unique().tolist() == [0]


@pytest.mark.parametrize("spacing_mm", [0.8, 1.0, 2.7])
def test_isotropic_keeps_places(spacing_mm):
    """Resample a ramp in space between two oblique grids with one centre."""

    def ramp(like: sitk.Image) -> np.ndarray:
        places = sitk.PhysicalPointSource(
            sitk.sitkVectorFloat64, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
        )
        return sitk.GetArrayFromImage(places) @ np.array([1.0, -2.0, 0.5])

    old = scan(grid(shape=(20, 24, 15)))
    image = sitk.GetImageFromArray(ramp(old))
    image.CopyInformation(old)
    new = resample_isotropic(image, spacing_mm)
    assert new.GetSpacing() == pytest.approx([spacing_mm] * 3) and new.GetDirection() == old.GetDirection()
    assert (
        np.abs(np.multiply(new.GetSize(), spacing_mm) - np.multiply(old.GetSize(), old.GetSpacing())).max()
        <= spacing_mm / 2 + 1e-6
    )
    centres = [
        it.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in it.GetSize()]) for it in (old, new)
    ]
    assert centres[0] == pytest.approx(centres[1])
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(sitk.GetArrayFromImage(new)[inner], ramp(new)[inner], atol=1e-3)


def test_isotropic_wants_a_spacing():
    for spacing_mm in (0, -1, float("nan")):
        with pytest.raises(InputError, match=r"expected 0\.0001 to 100 mm"):
            resample_isotropic(scan(grid()), spacing_mm)
    with pytest.raises(InputError, match="choose a larger one"):
        resample_isotropic(scan(grid()), 0.001)
