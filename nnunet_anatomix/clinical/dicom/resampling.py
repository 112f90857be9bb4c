"""Tilted and unevenly spaced slices: resampling to a right-angled, even grid, and back for labels.

A voxel grid can represent neither a gantry tilt, by which each slice is shifted in plane, nor a
slice spacing that changes. Slices are shifted within their planes, and interpolated linearly
between two planes where the grid has a plane of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from pretraining.imaging.grids import Grid

_ON_PLANE = 1e-3
"""Distance from a plane below which no other plane counts, fraction of the distance of planes."""


def resample_slices(values: np.ndarray, positions_mm: Sequence[Sequence[float]], grid: Grid) -> np.ndarray:
    """Resample slices linearly to a grid with the same in-plane axes and spacing.

    Args:
        values: (N, Y, X) values of the slices, in the order along the normal.
        positions_mm: Position of the first pixel of each slice, LPS.
        grid: Grid of the result, see :func:`~nnunet_anatomix.clinical.dicom.slices.stack_slices`.

    Returns:
        (Z, Y, X) of the type of ``values``; the smallest value where no slice has a pixel.
    """
    offsets_vox, heights_vox = _place_on_grid(positions_mm, grid)
    fill = values.min()
    resampled = np.full(grid.size[::-1], fill, values.dtype)
    shifted: dict[int, np.ndarray] = {}
    for z in range(grid.size[2]):
        below, above, weight = _neighbours(z, heights_vox)
        for k in set(shifted) - {below, above}:
            del shifted[k]
        for k in (below, above):
            if k not in shifted:
                shifted[k] = _translate(values[k], -offsets_vox[k], grid.size[:2], outside=np.nan)
        first, second = shifted[below], shifted[above]
        mixed = (1 - weight) * first + weight * second
        mixed = np.where(np.isnan(mixed), np.where(np.isnan(first), second, first), mixed)
        mixed = np.where(np.isnan(mixed), fill, mixed)
        resampled[z] = np.rint(mixed) if np.issubdtype(values.dtype, np.integer) else mixed
    return resampled


def labels_on_slices(
    labels: np.ndarray, grid: Grid, positions_mm: Sequence[Sequence[float]], size: tuple[int, int]
) -> np.ndarray:
    """Resample labels from a grid to the slices that it was made from.

    Each pixel gets the label with the largest linearly interpolated share.

    Args:
        labels: (Z, Y, X) integer labels on the grid.
        grid: Grid of the labels.
        positions_mm: Position of the first pixel of each slice, LPS.
        size: Columns and rows of a slice.

    Returns:
        (N, rows, columns) of the type of ``labels``.
    """
    offsets_vox, heights_vox = _place_on_grid(positions_mm, grid)
    back = np.zeros((len(positions_mm), size[1], size[0]), labels.dtype)
    for k, height in enumerate(heights_vox):
        below, above, weight = _neighbours(height, np.arange(grid.size[2]))
        first, second = labels[below], labels[above]
        best = np.zeros(back[k].shape, np.float32)
        for label in np.union1d(first, second):
            share = ((1 - weight) * (first == label) + weight * (second == label)).astype(np.float32)
            share = _translate(share, offsets_vox[k], size, outside=float(label == 0))
            back[k][share > best] = label
            best = np.maximum(best, share)
    return back


def _place_on_grid(positions_mm: Sequence[Sequence[float]], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the slices' first pixels: in plane (N, 2), and along the normal (N,)."""
    indices = np.linalg.solve(grid.steps_mm, (np.asarray(positions_mm) - grid.origin_mm).T).T
    return indices[:, :2], indices[:, 2]


def _neighbours(height: float, heights: np.ndarray) -> tuple[int, int, float]:
    """Return the planes below and above a height, and the weight of the one above."""
    above = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1)) if len(heights) > 1 else 0
    below = max(0, above - 1)
    if above == below:
        return 0, 0, 0.0
    weight = float(np.clip((height - heights[below]) / (heights[above] - heights[below]), 0, 1))
    if weight < _ON_PLANE:
        return below, below, 0.0
    if weight > 1 - _ON_PLANE:
        return above, above, 0.0
    return below, above, weight


def _translate(plane: np.ndarray, offset_vox: np.ndarray, size: tuple[int, ...], *, outside: float) -> np.ndarray:
    """Return the plane at the pixels of another one of equal spacing, linearly, as float32.

    Args:
        plane: (Y, X).
        offset_vox: Index in ``plane``, x and y, of the first pixel of the result.
        size: Columns and rows of the result.
        outside: Value where ``plane`` has no pixels.
    """
    image = sitk.GetImageFromArray(plane.astype(np.float32))
    offset = [float(np.round(each, 4)) for each in offset_vox]
    moved = sitk.Resample(
        image,
        [int(side) for side in size],
        sitk.Transform(2, sitk.sitkIdentity),
        sitk.sitkLinear,
        offset,
        (1.0, 1.0),
        (1.0, 0.0, 0.0, 1.0),
        outside,
        sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(moved)
