"""How pictures show a volume: which slices, which side is where, and which intensities are black and white."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = {"axial": ((0, 1), "RLAP"), "coronal": ((0, 2), "RLSI"), "sagittal": ((1, 2), "APSI")}
"""View → axes to the right and downward of a volume whose first voxel is the patient's right, front
and top (an LPS volume with its Z turned), and what lies left, right, above and below. Radiological:
the patient's right is on the left.
"""
SOFT_TISSUE_HU, LUNG_HU, BONE_HU = (-160.0, 240.0), (-1250.0, 250.0), (-400.0, 1000.0)
"""Windows of CT scans."""
CONTENT = 0.05
"""Share of a window; what is darker is taken for background."""
_LUNG_BELOW_HU, _BONE_ABOVE_HU = -500.0, 200.0
"""Medians of what is looked at, for which the window of soft tissue would show nothing. Air of a CT
scan lies below the first, too.
"""
_RANGE = (0.5, 99.5)
"""Percentiles taken for the range of a scan."""
_WHITE = 99.0
"""Percentile of the content shown white."""
_SAMPLE = 2**20
"""About as many voxels tell a window."""


def display_window(
    *volumes: np.ndarray, is_ct: bool | None = None, structures: np.ndarray | None = None
) -> tuple[float, float]:
    """Choose the intensities shown black and white.

    Args:
        volumes: Of any shape, shown alike; NaN and infinite values are left out.
        is_ct: Whether they are in Hounsfield units; told by the values if left out.
        structures: Intensities of what is to be seen, in Hounsfield units: in lungs and bones a CT
            scan gets their window.

    Returns:
        (black, white). Black is below white, except for a constant volume, whose value is both.
    """
    values = np.concatenate([volume.ravel()[:: 1 + volume.size // _SAMPLE] for volume in volumes])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, _RANGE)
    content = values[values >= low + CONTENT * (high - low)]
    if is_ct or (is_ct is None and low < _LUNG_BELOW_HU < np.median(content)):
        median = np.median(structures) if structures is not None and structures.size else 0.0
        return LUNG_HU if median < _LUNG_BELOW_HU else BONE_HU if median > _BONE_ABOVE_HU else SOFT_TISSUE_HU
    high = np.percentile(content, _WHITE)
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def apply_window(volume: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey values in [0, 1] of a volume under a window; NaN and a constant volume are black."""
    low, high = window
    return np.clip((np.nan_to_num(volume, nan=low) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def letter_sides(axis: Axes, view: str, *, outside: bool = False, size: float = 8) -> None:
    """Write at the four sides of a picture what lies there.

    Args:
        axis: Shows the picture.
        view: Key of :data:`VIEWS`.
        outside: Write beside the picture and not on it.
        size: Of the letters, points.
    """
    edge = -0.01 if outside else 0.03
    places = ((edge, 0.5), (1 - edge, 0.5), (0.5, 1 - edge), (0.5, edge))
    alignments = [("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom")]
    if outside:
        alignments = [("right", "center"), ("left", "center"), ("center", "bottom"), ("center", "top")]
    for letter, (x, y), (across, along) in zip(VIEWS[view][1], places, alignments, strict=True):
        axis.text(x, y, letter, color="white", fontsize=size, alpha=0.85, ha=across, va=along, transform=axis.transAxes)
