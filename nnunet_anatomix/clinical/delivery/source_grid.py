"""Placing of a prediction's voxels on the axes of the source grid, and on the source slices."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.cases import CaseSource
from nnunet_anatomix.clinical.dicom.resampling import labels_on_slices
from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid, index_to_mm

_TOLERANCE_VOX = 0.01
"""Largest distance between the voxels of prediction and source, voxels. Single precision in headers
causes a hundredth of it.
"""


def reorder_to_grid(prediction: sitk.Image, grid: Grid) -> np.ndarray:
    """Return the values of a prediction in the order of the source grid.

    Args:
        prediction: 3D image with one component; its axes may have any order and direction.
        grid: Grid of the source.

    Returns:
        (Z, Y, X) array with index [k, j, i] of the grid.

    Raises:
        InputError: If prediction and source have different voxels. Nothing is resampled: nnU-Net
            predicts on the grid of its input, so a different grid means a different scan.
    """
    if prediction.GetDimension() != 3 or prediction.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"expected a 3D prediction with one value per voxel, found {prediction.GetSize()} voxels with "
            f"{prediction.GetNumberOfComponentsPerPixel()} values; deliver nnU-Net's label maps, not probabilities"
        )
    axes = np.linalg.solve(grid.steps_mm, index_to_mm(prediction))
    order = np.rint(axes).astype(int)
    size = np.array(prediction.GetSize())
    first = np.linalg.solve(grid.steps_mm, np.subtract(prediction.GetOrigin(), grid.origin_mm))
    flipped = order.sum(axis=1) < 0  # per axis of the grid
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
            "the prediction has "
            f"{_format_grid(prediction.GetSize(), prediction.GetSpacing(), prediction.GetOrigin())}, the source "
            f"{_format_grid(grid.size, grid.spacing_mm, grid.origin_mm)}; "
            "predict again from the images of intake, or resample the prediction to them"
        )
    values = sitk.GetArrayFromImage(prediction).transpose(2, 1, 0).transpose(np.abs(order).argmax(axis=1))
    return np.ascontiguousarray(np.flip(values, np.flatnonzero(flipped)).transpose(2, 1, 0))


def place_on_slices(labels: np.ndarray, source: CaseSource) -> np.ndarray:
    """Return the labels on the slices of the source series.

    Args:
        labels: (Z, Y, X) labels on the grid of the source record.
        source: Source record of the case.

    Returns:
        (N, rows, columns). The same array if the slices are the planes of the grid; resampled if
            they are tilted or unevenly spaced.
    """
    channel = source.channels[0]
    if not channel.positions_mm:
        return labels
    columns, rows = channel.slice_size
    return labels_on_slices(labels, source.grid, channel.positions_mm, (columns, rows))


def _format_grid(size: tuple[int, ...], spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...]) -> str:
    sizes, spacings = " x ".join(map(str, size)), " x ".join(f"{mm:.4g}" for mm in spacing_mm)
    return f"{sizes} voxels of {spacings} mm with origin ({', '.join(f'{mm:.1f}' for mm in origin_mm)})"
