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

_MARGIN = 3
"""Voxels around a label in which distances to its surface are computed."""
_FAR_MM = 1e6
"""Distance where a label has no surface."""
_CHUNK = 32
"""Planes whose distances are in memory at a time."""


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
    neighbours = [_neighbours(height, np.arange(grid.size[2])) for height in heights_vox]
    back = np.zeros((len(positions_mm), size[1], size[0]), labels.dtype)
    deepest = np.full(back.shape, -np.inf, np.float32)
    for label, box in _boxes(labels).items():
        start = np.array([box[2].start, box[1].start])
        for first_z in range(box[0].start, box[0].stop, _CHUNK):
            # A slab with a margin, in which all distances near its planes are exact.
            end = min(first_z + _CHUNK, box[0].stop)
            slab = slice(max(box[0].start, first_z - _MARGIN), min(box[0].stop, end + 1 + _MARGIN))
            depths: np.ndarray | None = None
            for k, (below, above, weight) in enumerate(neighbours):
                if not first_z <= below < end or above >= box[0].stop:
                    continue
                if depths is None:
                    depths = _signed_depths(labels[slab, box[1], box[2]] == label, grid.spacing_mm[::-1])
                depth = (1 - weight) * depths[below - slab.start] + weight * depths[above - slab.start]
                depth = _translate(depth, offsets_vox[k] - start, size, outside=-np.inf)
                wins = depth > deepest[k]
                back[k][wins], deepest[k][wins] = label, depth[wins]
    return back


def _boxes(labels: np.ndarray) -> dict[int, tuple[slice, slice, slice]]:
    """Return the box around each label and a margin, background first: that of all others."""
    from scipy.ndimage import find_objects

    boxes = {label: box for label, box in enumerate(find_objects(labels), 1) if box is not None}
    if boxes:
        sides = zip(*boxes.values(), strict=True)
        boxes = {0: tuple(slice(min(a.start for a in side), max(a.stop for a in side)) for side in sides), **boxes}
    return {
        label: (_widen(box[0], labels.shape[0]), _widen(box[1], labels.shape[1]), _widen(box[2], labels.shape[2]))
        for label, box in boxes.items()
    }


def _widen(part: slice, side: int) -> slice:
    return slice(max(0, part.start - _MARGIN), min(side, part.stop + _MARGIN))


def _signed_depths(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return distances to the surface of a mask, mm: positive inside, negative outside; float32."""
    from scipy.ndimage import distance_transform_edt

    if mask.all() or not mask.any():  # no surface
        return np.full(mask.shape, _FAR_MM if mask.any() else -_FAR_MM, np.float32)
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
