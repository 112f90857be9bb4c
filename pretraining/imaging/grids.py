"""Voxel grids in physical space: comparison, conversion to tensors, and resampling.

The axis convention of the whole project: Tensors have the axes X, Y, Z in the order of SimpleITK's
indices, with channels before them. Arrays of SimpleITK have the axes Z, Y, X, and are transposed.
Positions in space are those of ITK and DICOM: millimetres, LPS (x increases to the patient's left,
y to the back, z to the head). Displacements pull: the moved image at voxel ``p`` is the moving
image at ``p + u(p)``, with components along X, Y and Z in voxels of the fixed grid.
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
"""Largest distance between corresponding corners of equal grids, voxels; rounding to single
precision causes less.
"""
ROUNDED_HEADERS_VOX = 0.1
"""Tolerance like :data:`SAME_GRID_VOX` for headers of different programs or scanners, which round
numbers to a few decimals.
"""
ISOTROPIC = 1.5
"""Largest ratio of spacings along a grid's axes that counts as isotropic."""
LARGEST_FIELD = 256**3
"""Maximum number of voxels of a written displacement field. Fields are never computed on finer
grids, and are linear between voxels.
"""
_FWHM = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """3D voxel grid with ITK's geometry, in LPS."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    """Direction cosines, 9 numbers in row-major order, as from ``Image.GetDirection()``."""

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """Return the grid of a 3D image."""
        return cls(
            size=image.GetSize(),
            spacing_mm=image.GetSpacing(),
            origin_mm=image.GetOrigin(),
            direction=image.GetDirection(),
        )

    @property
    def steps_mm(self) -> np.ndarray:
        """Steps by one voxel along each axis as columns, (3, 3), mm."""
        return np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm)


def same_grid(first: sitk.Image | Grid, second: sitk.Image | Grid, *, within_vox: float = SAME_GRID_VOX) -> bool:
    """Tell whether two grids have their voxels at the same positions.

    Args:
        first: 3D image or grid.
        second: 3D image or grid.
        within_vox: Largest allowed distance of corresponding voxels along any axis, voxels of
            ``second``; see :data:`SAME_GRID_VOX` and :data:`ROUNDED_HEADERS_VOX`.
    """
    first, second = (grid if isinstance(grid, Grid) else Grid.of(grid) for grid in (first, second))
    return tuple(first.size) == tuple(second.size) and corner_distance_vox(first, second) <= within_vox


def corner_distance_vox(first: sitk.Image | Grid, second: sitk.Image | Grid) -> float:
    """Return the largest distance of corresponding corners of two grids along any axis.

    Args:
        first: 3D image or grid.
        second: 3D image or grid of the same size.

    Returns:
        The distance, voxels of ``second``.

    Notes:
        Positions are linear in the index, so the distance of all other voxels is at most that of
        the corners.
    """
    first, second = (grid if isinstance(grid, Grid) else Grid.of(grid) for grid in (first, second))
    corners = np.stack(np.meshgrid(*[(0, side - 1) for side in first.size], indexing="ij")).reshape(3, -1)
    apart_mm = (first.steps_mm - second.steps_mm) @ corners + np.subtract(first.origin_mm, second.origin_mm)[:, None]
    return float(np.abs(np.linalg.pinv(second.steps_mm) @ apart_mm).max())


def image_on(grid: Grid, values: np.ndarray) -> sitk.Image:
    """Create an image with exactly the geometry of a grid.

    Args:
        grid: Geometry of the image.
        values: (Z, Y, X).
    """
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def image_tensor(image: sitk.Image) -> Tensor:
    """Convert a scalar image to an (X, Y, Z) float32 tensor."""
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32).transpose(2, 1, 0).copy())


def tensor_image(volume: Tensor, like: sitk.Image) -> sitk.Image:
    """Convert an (X, Y, Z) tensor to an image on the grid of ``like``."""
    image = sitk.GetImageFromArray(volume.detach().cpu().numpy().transpose(2, 1, 0))
    image.CopyInformation(like)
    return image


def index_to_mm(grid: sitk.Image) -> np.ndarray:
    """Return the (3, 3) matrix from steps in voxels (X, Y, Z) to steps in physical space, mm."""
    return Grid.of(grid).steps_mm


def resample_image(
    image: sitk.Image,
    grid: sitk.Image,
    transform: sitk.Transform | None = None,
    *,
    nearest: bool = False,
    outside: float | None = None,
) -> sitk.Image:
    """Resample an image to another grid.

    Args:
        image: Scalar image.
        grid: Any image on the target grid.
        transform: Mapping from points of the grid to points of the image. Default: identity.
        nearest: Whether to interpolate by nearest neighbour, as labels require.
        outside: Value outside the image. Default: its minimum, 0 with ``nearest``.
    """
    if outside is None:
        outside = 0.0 if nearest else float(sitk.GetArrayViewFromImage(image).min())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(image, grid, transform or sitk.Transform(), method, outside, image.GetPixelID())


def resample_isotropic(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Resample a scan linearly to cubic voxels about the same centre.

    The scan is smoothed first along axes that become coarser.

    Args:
        image: Scalar 3D image.
        spacing_mm: Spacing of the new grid, mm.

    Returns:
        float32 image; the new grid does not extend beyond the old one.

    Raises:
        InputError: If the spacing is out of range, or gives more voxels than ITK can count.
    """
    check_spacing(spacing_mm)
    image = sitk.Cast(image, sitk.sitkFloat32)
    old, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    new_size = np.maximum(1, np.round(size * old / spacing_mm)).astype(int)
    if prod(new_size.tolist()) > np.iinfo(np.int32).max:
        raise InputError(f"a spacing of {spacing_mm:g} mm gives {new_size.tolist()} voxels; choose a larger one")
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
    """Compute which voxels of a grid an image covers.

    Args:
        image: Image to be resampled.
        grid: Any image on the target grid.
        transform: Mapping from points of the grid to points of the image. Default: identity.

    Returns:
        (X, Y, Z) float32, 1 inside the image and 0 outside.
    """
    everywhere = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(image)
    return image_tensor(resample_image(everywhere, grid, transform, nearest=True))


def near_isotropic_grid(
    image: sitk.Image, *, spacing_mm: float | None = None, at_most_voxels: int | None = None
) -> sitk.Image:
    """Return a nearly isotropic grid that covers the centres of all voxels of an image.

    Args:
        image: Any image on the original grid.
        spacing_mm: Spacing along all axes, mm. Default: the image's own grid if its spacings differ
            at most by a factor of 1.5, else its finest spacing.
        at_most_voxels: Maximum number of voxels; a grid with more is made coarser.

    Returns:
        An image of zeros on the grid.
    """
    own = np.array(image.GetSpacing())
    sides = np.array(image.GetSize())
    if spacing_mm is None:
        spacing = own if own.max() <= ISOTROPIC * own.min() else np.full(3, own.min())
    else:
        spacing = np.full(3, float(spacing_mm))
    while at_most_voxels and _sides_at_spacing(sides, own, spacing).prod() > at_most_voxels:
        spacing = spacing * 1.02
    grid = sitk.Image([int(side) for side in _sides_at_spacing(sides, own, spacing)], sitk.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.GetOrigin())
    return grid


def grid_of_cubes(grid: sitk.Image, side: int, *, whole_only: bool = False) -> sitk.Image:
    """Return the coarse grid whose voxels are cubes of ``side`` voxels, from the first voxel on.

    Args:
        grid: Any image on the fine grid.
        side: Side of the cubes, voxels.
        whole_only: Whether to omit incomplete cubes at the ends of axes.

    Returns:
        An image of zeros on the coarse grid.
    """
    sides = [length // side if whole_only else -(-length // side) for length in grid.GetSize()]
    cubes = sitk.Image(sides, sitk.sitkUInt8)
    cubes.SetDirection(grid.GetDirection())
    cubes.SetSpacing([side * spacing for spacing in grid.GetSpacing()])
    cubes.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2] * 3))
    return cubes


def _sides_at_spacing(sides: np.ndarray, own: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return np.ceil((sides - 1) * own / spacing - 1e-6).astype(int) + 1
