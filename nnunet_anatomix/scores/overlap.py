"""Agreement of two label maps: Dice and 95 % Hausdorff distance per label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor

from pretraining.common.errors import InputError

LabelMap = np.ndarray | Tensor
"""(X, Y, Z) whole numbers of any dtype; 0 is background."""
_SURFACE_PERCENTILE = 95


def shared_labels(fixed: LabelMap, moving: LabelMap) -> list[int]:
    """Return the labels above 0 that both maps contain, ascending; their grids may differ."""
    return sorted(_labels(_to_int32(fixed)) & _labels(_to_int32(moving)))


def dice_by_label(fixed: LabelMap, moved: LabelMap) -> dict[int, float]:
    """Compute the Dice, ``2 |A ∩ B| / (|A| + |B|)``, of every label above 0 in either map.

    Args:
        fixed: (X, Y, Z) labels.
        moved: (X, Y, Z) labels on the same grid.

    Returns:
        Dice in [0, 1] by label, labels ascending; 0 for a label that only one map contains.
    """
    fixed, moved = _require_same_shape(fixed, moved)
    greatest = max(int(fixed.max()), int(moved.max()))
    sizes = _counts(fixed, greatest) + _counts(moved, greatest)
    overlap = _counts(fixed[fixed == moved], greatest)
    return {int(label): float(2 * overlap[label] / sizes[label]) for label in np.flatnonzero(sizes) if label > 0}


def hd95_mm_by_label(fixed: LabelMap, moved: LabelMap, spacing_mm: Sequence[float]) -> dict[int, float]:
    """Compute the 95 % Hausdorff distance of every label: the greater of both directed percentiles.

    Args:
        fixed: (X, Y, Z) labels.
        moved: (X, Y, Z) labels on the same grid.
        spacing_mm: Spacing along X, Y and Z, mm.

    Returns:
        Distance by label, mm, labels ascending; NaN for a label that only one map contains.

    Notes:
        A surface is a structure minus its erosion by the six neighbours. Voxels outside of the grid
        count as background, as in MONAI.
    """
    fixed, moved = _require_same_shape(fixed, moved)
    boxes = [
        {label: box for label, box in enumerate(ndimage.find_objects(labels), 1) if box} for labels in (fixed, moved)
    ]
    distances = dict.fromkeys(sorted(boxes[0].keys() | boxes[1].keys()), float("nan"))
    for label in boxes[0].keys() & boxes[1].keys():
        # The joint bounding box contains both surfaces, so distances in it equal those of the whole
        # grid.
        pairs = zip(boxes[0][label], boxes[1][label], strict=True)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        distances[label] = _hd95_mm(fixed[box] == label, moved[box] == label, spacing_mm)
    return distances


def _hd95_mm(first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float]) -> float:
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    to_surface = [ndimage.distance_transform_edt(~surface, sampling=tuple(spacing_mm)) for surface in surfaces]
    directed = (to_surface[1][surfaces[0]], to_surface[0][surfaces[1]])
    return float(max(np.percentile(distances, _SURFACE_PERCENTILE) for distances in directed))


def _require_same_shape(fixed: LabelMap, moved: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    if fixed.shape != moved.shape:
        raise InputError(
            f"expected two label maps on one grid, found {(*fixed.shape,)} and {(*moved.shape,)} voxels; "
            "resample one of them"
        )
    return _to_int32(fixed), _to_int32(moved)


def _to_int32(labels: LabelMap) -> np.ndarray:
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    return labels if labels.dtype == np.int32 else np.rint(labels).astype(np.int32)


def _labels(labels: np.ndarray) -> set[int]:
    return {int(label) for label in np.flatnonzero(_counts(labels)) if label > 0}


def _counts(labels: np.ndarray, greatest: int = 0) -> np.ndarray:
    """Count voxels per label, up to ``greatest`` at least; labels below 0 count as background."""
    return np.bincount(labels.clip(min=0).ravel(), minlength=1 + max(0, greatest))
