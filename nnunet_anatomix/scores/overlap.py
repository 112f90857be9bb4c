"""Agreement of two label maps: Dice and 95 % Hausdorff distance, label by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor

from pretraining.common.errors import InputError

LabelMap = np.ndarray | Tensor
"""(X, Y, Z) whole numbers of any type; 0 is background."""
_SURFACE_PERCENTILE = 95


def shared_labels(fixed: LabelMap, moving: LabelMap) -> list[int]:
    """Labels above 0 that both maps have, ascending; the maps need not share a grid."""
    return sorted(_labels(_whole(fixed)) & _labels(_whole(moving)))


def dice_by_label(fixed: LabelMap, moved: LabelMap) -> dict[int, float]:
    """Overlap 2 |A ∩ B| / (|A| + |B|) of every label above 0 in either map; 0 for a label that only one of them has.

    Args:
        fixed, moved: (X, Y, Z), one grid.

    Returns:
        Label → Dice in [0, 1], labels ascending.
    """
    fixed, moved = _on_one_grid(fixed, moved)
    greatest = max(int(fixed.max()), int(moved.max()))
    either = _counts(fixed, greatest) + _counts(moved, greatest)
    both = _counts(fixed[fixed == moved], greatest)
    return {int(label): float(2 * both[label] / either[label]) for label in np.flatnonzero(either) if label > 0}


def hd95_mm_by_label(fixed: LabelMap, moved: LabelMap, spacing_mm: Sequence[float]) -> dict[int, float]:
    """Distance within which 95 % of either surface lies of the other: the greater of the two directed percentiles.

    Args:
        fixed, moved: (X, Y, Z), one grid.
        spacing_mm: Of the grid, along X, Y and Z.

    Returns:
        Label → mm, labels ascending; NaN for a label that only one of the maps has.

    Notes:
        A surface is a structure less its erosion by the six neighbours, and what lies beyond the
        grid is background, as in MONAI.
    """
    fixed, moved = _on_one_grid(fixed, moved)
    boxes = [
        {label: box for label, box in enumerate(ndimage.find_objects(labels), 1) if box} for labels in (fixed, moved)
    ]
    distances = dict.fromkeys(sorted(boxes[0].keys() | boxes[1].keys()), float("nan"))
    for label in boxes[0].keys() & boxes[1].keys():
        # Both surfaces lie in the box around both structures, so that distances in there are those
        # of the whole grid.
        pairs = zip(boxes[0][label], boxes[1][label], strict=True)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        distances[label] = _hd95_mm(fixed[box] == label, moved[box] == label, spacing_mm)
    return distances


def _hd95_mm(first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float]) -> float:
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    to_surface = [ndimage.distance_transform_edt(~surface, sampling=tuple(spacing_mm)) for surface in surfaces]
    directed = (to_surface[1][surfaces[0]], to_surface[0][surfaces[1]])
    return float(max(np.percentile(distances, _SURFACE_PERCENTILE) for distances in directed))


def _on_one_grid(fixed: LabelMap, moved: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    if fixed.shape != moved.shape:
        raise InputError(
            f"two label maps on one grid expected, found {(*fixed.shape,)} and {(*moved.shape,)} voxels; resample one of them"
        )
    return _whole(fixed), _whole(moved)


def _whole(labels: LabelMap) -> np.ndarray:
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    return labels if labels.dtype == np.int32 else np.rint(labels).astype(np.int32)


def _labels(labels: np.ndarray) -> set[int]:
    return {int(label) for label in np.flatnonzero(_counts(labels)) if label > 0}


def _counts(labels: np.ndarray, greatest: int = 0) -> np.ndarray:
    """Voxels of every label, up to the greatest at least; what is below 0 counts as background."""
    return np.bincount(labels.clip(min=0).ravel(), minlength=1 + max(0, greatest))
