"""A prediction's voxels in the order of the source grid's: the same points, whatever the order of a file's axes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid, index_to_mm

_TOLERANCE_VOX = 0.01
"""Greatest distance of a voxel from its place; what single precision in headers leaves is a
hundredth of it.
"""


def on_source_grid(prediction: sitk.Image, grid: Grid) -> np.ndarray:
    """The prediction's values in the order of the grid.

    Args:
        prediction: 3D, one component. Its axes may be in any order and direction.
        grid: Of the source.

    Returns:
        (Z, Y, X), index [k, j, i] of the grid.

    Raises:
        InputError: If its voxels are not those of the grid. Nothing is resampled: nnU-Net writes on
            the grid of what it was given, so another grid tells of another scan.
    """
    if prediction.GetDimension() != 3 or prediction.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"expected a prediction of three axes with one number in a voxel, found {prediction.GetSize()} voxels of "
            f"{prediction.GetNumberOfComponentsPerPixel()} numbers; deliver nnU-Net's label maps, not probabilities"
        )
    axes = np.linalg.solve(grid.steps_mm, index_to_mm(prediction))
    order = np.rint(axes).astype(int)
    size = np.array(prediction.GetSize())
    first = np.linalg.solve(grid.steps_mm, np.subtract(prediction.GetOrigin(), grid.origin_mm))
    flipped = order.sum(axis=1) < 0  # by the grid's axis
    is_reordering = np.array_equal(np.abs(order).sum(axis=0), [1, 1, 1]) and np.array_equal(
        np.abs(order).sum(axis=1), [1, 1, 1]
    )
    expected_first = np.where(flipped, np.array(grid.size) - 1, 0)
    if (
        not is_reordering
        or not np.array_equal(np.abs(order) @ size, grid.size)
        or np.abs(first - expected_first).max() > _TOLERANCE_VOX
        or (np.abs(axes - order) @ size).max() > _TOLERANCE_VOX
    ):
        raise InputError(
            f"the prediction has {_said(prediction.GetSize(), prediction.GetSpacing(), prediction.GetOrigin())}, the source "
            f"{_said(grid.size, grid.spacing_mm, grid.origin_mm)}; predict again from what intake wrote, or resample it to that image"
        )
    values = sitk.GetArrayFromImage(prediction).transpose(2, 1, 0).transpose(np.abs(order).argmax(axis=1))
    return np.ascontiguousarray(np.flip(values, np.flatnonzero(flipped)).transpose(2, 1, 0))


def _said(size: tuple[int, ...], spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...]) -> str:
    sizes, spacings = " x ".join(map(str, size)), " x ".join(f"{mm:.4g}" for mm in spacing_mm)
    return f"{sizes} voxels of {spacings} mm from ({', '.join(f'{mm:.1f}' for mm in origin_mm)}) on"
