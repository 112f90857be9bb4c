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

_MARGIN = 2
"""Voxels around a label in which distances to its surface are computed."""


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

    Each pixel gets the label inside of which it lies deepest, by linearly interpolated signed
    distances to the surfaces.

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
    deepest = np.full(back.shape, -np.inf, np.float32)
    for label in _labels_in(labels):
        mask = labels == label
        box = _bounding_box(labels != 0 if label == 0 else mask)
        if box is None:
            continue
        depths = _signed_depths(mask[box], grid.spacing_mm[::-1])
        first_z, start = box[0].start, np.array([box[2].start, box[1].start])
        for k, height in enumerate(heights_vox):
            below, above, weight = _neighbours(height, np.arange(grid.size[2]))
            if below < first_z or above >= box[0].stop:
                continue
            depth = (1 - weight) * depths[below - first_z] + weight * depths[above - first_z]
            depth = _translate(depth, offsets_vox[k] - start, size, outside=-np.inf)
            wins = depth > deepest[k]
            back[k][wins], deepest[k][wins] = label, depth[wins]
    return back


def _labels_in(labels: np.ndarray) -> list[int]:
    """Return the labels that occur, ascending, background first."""
    found: set[int] = {0}
    for plane in labels:
        found.update(np.unique(plane).tolist())
    return sorted(found)


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the box around a mask and a margin; None if the mask is empty."""
    box = []
    for axis, side in enumerate(mask.shape):
        where = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(where):
            return None
        box.append(slice(max(0, where[0] - _MARGIN), min(side, where[-1] + 1 + _MARGIN)))
    return box[0], box[1], box[2]


def _signed_depths(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return distances to the surface of a mask, mm: positive inside, negative outside; float32."""
    from scipy.ndimage import distance_transform_edt

    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    inside = distance_transform_edt(mask, sampling=spacing_mm).astype(np.float32)
    return inside - distance_transform_edt(~mask, sampling=spacing_mm).astype(np.float32)


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
