"""Grids of voxels in space: which are the same, what lies on them, and how an image gets from one to another.

The project has one axis convention, and it is this one. Tensors have the axes X, Y, Z in the order
of SimpleITK's indices, channels before them. Arrays of SimpleITK have the axes Z, Y, X, and are
transposed. Positions in space are those of ITK and DICOM: millimetres, LPS (x grows to the
patient's left, y to the back, z to the head). A displacement pulls: the moved image at voxel ``p``
is the moving image at ``p + u(p)``, with components along X, Y and Z in voxels of the fixed grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from pretraining.common.errors import InputError
from pretraining.imaging.limits import check_spacing

SAME_GRID_VOX = 1e-3
"""Greatest distance between corresponding corners of two grids that are the same, voxels; rounding
to single precision leaves less.
"""
ROUNDED_HEADERS_VOX = 0.1
"""The same for headers of one grid from different programs or scanners, whose numbers are rounded
to a few decimals.
"""
ISOTROPIC = 1.5
"""Greatest ratio of spacings along a grid's axes that still counts as isotropic."""
LARGEST_FIELD = 256**3
"""Voxels of a displacement field that is written: between them it is linear, and it was never finer
than that.
"""
_FWHM = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A 3D grid of ITK's, in LPS."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    """9 numbers, row by row, as ``Image.GetDirection()``."""

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a 3D image."""
        return cls(
            size=image.GetSize(),
            spacing_mm=image.GetSpacing(),
            origin_mm=image.GetOrigin(),
            direction=image.GetDirection(),
        )

    @property
    def steps_mm(self) -> np.ndarray:
        """(3, 3): a column for a step along each axis, mm."""
        return np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm)


def same_grid(first: sitk.Image | Grid, second: sitk.Image | Grid, *, within_vox: float = SAME_GRID_VOX) -> bool:
    """Whether two grids have their voxels at the same places.

    Args:
        first: A 3D image, or a grid.
        second: Likewise.
        within_vox: Greatest distance of corresponding voxels along any axis, voxels of ``second``;
            see :data:`SAME_GRID_VOX` and :data:`ROUNDED_HEADERS_VOX`.
    """
    first, second = (grid if isinstance(grid, Grid) else Grid.of(grid) for grid in (first, second))
    return tuple(first.size) == tuple(second.size) and corner_distance_vox(first, second) <= within_vox


def corner_distance_vox(first: sitk.Image | Grid, second: sitk.Image | Grid) -> float:
    """The greatest distance of corresponding corners of two grids of one size along any axis, voxels of ``second``.

    Args:
        first: A 3D image, or a grid.
        second: Likewise.

    Notes:
        Positions are linear in the index, so no voxel is farther off than a corner.
    """
    first, second = (grid if isinstance(grid, Grid) else Grid.of(grid) for grid in (first, second))
    corners = np.stack(np.meshgrid(*[(0, side - 1) for side in first.size], indexing="ij")).reshape(3, -1)
    apart_mm = (first.steps_mm - second.steps_mm) @ corners + np.subtract(first.origin_mm, second.origin_mm)[:, None]
    return float(np.abs(np.linalg.pinv(second.steps_mm) @ apart_mm).max())


def image_on(grid: Grid, values: np.ndarray) -> sitk.Image:
    """An image of values (Z, Y, X) with exactly the geometry of the grid."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def image_tensor(image: sitk.Image) -> Tensor:
    """(X, Y, Z) float32 of a scalar image."""
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32).transpose(2, 1, 0).copy())


def tensor_image(volume: Tensor, like: sitk.Image) -> sitk.Image:
    """The image of an (X, Y, Z) tensor on the grid of ``like``."""
    image = sitk.GetImageFromArray(volume.detach().cpu().numpy().transpose(2, 1, 0))
    image.CopyInformation(like)
    return image


def index_to_mm(grid: sitk.Image) -> np.ndarray:
    """(3, 3): steps of voxels along X, Y, Z to steps in physical space, mm."""
    return Grid.of(grid).steps_mm


def resample_image(
    image: sitk.Image,
    grid: sitk.Image,
    transform: sitk.Transform | None = None,
    *,
    nearest: bool = False,
    outside: float | None = None,
) -> sitk.Image:
    """The image on another grid, through a transform that takes points of the grid to points of the image.

    Args:
        image: Scalar.
        grid: Any image on the grid.
        transform: Identity if left out.
        nearest: For labels.
        outside: Value where the image does not reach; its least value if left out, 0 for labels.
    """
    if outside is None:
        outside = 0.0 if nearest else float(sitk.GetArrayViewFromImage(image).min())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(image, grid, transform or sitk.Transform(), method, outside, image.GetPixelID())


def resample_isotropic(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The scan on a grid of cubes about the same centre, by linear interpolation; smoothed before where that is coarser.

    Args:
        image: Scalar, three axes.
        spacing_mm: Of the new grid.

    Returns:
        float32 image; no voxel lies beyond the old ones.

    Raises:
        InputError: For a spacing that no grid can have, or that makes more voxels than ITK can
            count.
    """
    check_spacing(spacing_mm)
    image = sitk.Cast(image, sitk.sitkFloat32)
    old, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    new_size = np.maximum(1, np.round(size * old / spacing_mm)).astype(int)
    if prod(new_size.tolist()) > np.iinfo(np.int32).max:
        raise InputError(f"a spacing of {spacing_mm:g} mm makes {new_size.tolist()} voxels; name a larger one")
    variance = np.maximum(0, spacing_mm**2 - old**2) / _FWHM**2
    if variance.any():
        image = sitk.DiscreteGaussian(
            image, variance.tolist(), int(np.ceil(8 * np.sqrt(variance) / old).max()) + 1, 0.01, True
        )
    first = (size * old - new_size * spacing_mm + spacing_mm) / (2 * old) - 0.5
    origin = image.TransformContinuousIndexToPhysicalPoint(first.tolist())
    outside = float(sitk.GetArrayViewFromImage(image).min())
    spacing = [float(spacing_mm)] * 3
    return sitk.Resample(
        image, new_size.tolist(), sitk.Transform(), sitk.sitkLinear, origin, spacing, image.GetDirection(), outside
    )


def coverage(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform | None = None) -> Tensor:
    """(X, Y, Z) float32, 1 where the image reaches a voxel of the grid through the transform, and 0 elsewhere."""
    everywhere = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(image)
    return image_tensor(resample_image(everywhere, grid, transform, nearest=True))


def near_isotropic_grid(
    image: sitk.Image, *, spacing_mm: float | None = None, at_most_voxels: int | None = None
) -> sitk.Image:
    """A grid over the same box, from the first voxel's centre to the last's at least.

    Args:
        image: Any image on the grid to begin with.
        spacing_mm: Along all axes; by default the image's own grid, if its axes differ by at most
            1.5 times, else its finest spacing.
        at_most_voxels: Where the grid would have more, it is made coarser.

    Returns:
        An image of zeros on the grid.
    """
    own = np.array(image.GetSpacing())
    sides = np.array(image.GetSize())
    if spacing_mm is None:
        spacing = own if own.max() <= ISOTROPIC * own.min() else np.full(3, own.min())
    else:
        spacing = np.full(3, float(spacing_mm))
    while at_most_voxels and _sides_over(sides, own, spacing).prod() > at_most_voxels:
        spacing = spacing * 1.02
    grid = sitk.Image([int(side) for side in _sides_over(sides, own, spacing)], sitk.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.GetOrigin())
    return grid


def grid_of_cubes(grid: sitk.Image, side: int, *, whole_only: bool = False) -> sitk.Image:
    """The grid whose voxels are cubes of ``side`` voxels, counted from the first; what is left at an axis' end is a cube too, or none.

    Args:
        grid: Any image on the grid.
        side: Of a cube, voxels.
        whole_only: Whether cubes that the grid does not fill are left out.
    """
    sides = [length // side if whole_only else -(-length // side) for length in grid.GetSize()]
    cubes = sitk.Image(sides, sitk.sitkUInt8)
    cubes.SetDirection(grid.GetDirection())
    cubes.SetSpacing([side * spacing for spacing in grid.GetSpacing()])
    cubes.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2] * 3))
    return cubes


def _sides_over(sides: np.ndarray, own: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return np.ceil((sides - 1) * own / spacing - 1e-6).astype(int) + 1
