"""Display conventions for volumes: slice orientation, side letters and intensity windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = {"axial": ((0, 1), "RLAP"), "coronal": ((0, 2), "RLSI"), "sagittal": ((1, 2), "APSI")}
"""View → volume axes shown to the right and downward, and the letters at the left, right, upper and
lower side. The first voxel of the volume is at the patient's right, front and top (an LPS volume
with flipped Z). Radiological: the patient's right is on the left.
"""
SOFT_TISSUE_HU, LUNG_HU, BONE_HU = (-160.0, 240.0), (-1250.0, 250.0), (-400.0, 1000.0)
"""Intensity windows for CT scans."""
CONTENT = 0.05
"""Share of the intensity range below which a voxel counts as background."""
_LUNG_BELOW_HU, _BONE_ABOVE_HU = -500.0, 200.0
"""Median intensities of lungs and bones, below and above which the soft-tissue window shows no
detail. Air in a CT scan is also below the first.
"""
_RANGE = (0.5, 99.5)
"""Percentiles that define the intensity range of a scan."""
_WHITE = 99.0
"""Percentile of the content shown white."""
_SAMPLE = 2**20
"""Approximate number of voxels from which a window is computed."""


def display_window(
    *volumes: np.ndarray, is_ct: bool | None = None, structures: np.ndarray | None = None
) -> tuple[float, float]:
    """Choose the intensities shown black and white.

    Args:
        *volumes: Volumes of any shape that share the window; NaN and infinite values are ignored.
        is_ct: Whether they are in Hounsfield units. Default: inferred from the values.
        structures: Intensities of the structures of interest, Hounsfield units. They select the
            lung or bone window of a CT scan.

    Returns:
        (black, white). Black is below white, except for a constant volume, where both are its
        value.
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
    """Map intensities to grey values in [0, 1]; NaN and constant volumes become black.

    Args:
        volume: Volume of any shape.
        window: (black, white) from :func:`display_window`.
    """
    low, high = window
    return np.clip((np.nan_to_num(volume, nan=low) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def letter_sides(axis: Axes, view: str, *, outside: bool = False, size: float = 8) -> None:
    """Write the anatomical side (R, L, A, P, S, I) at each edge of a picture.

    Args:
        axis: Matplotlib axes with the picture.
        view: Key of :data:`VIEWS`.
        outside: Whether to write next to the picture instead of on it.
        size: Font size, points.
    """
    edge = -0.01 if outside else 0.03
    positions = ((edge, 0.5), (1 - edge, 0.5), (0.5, 1 - edge), (0.5, edge))
    alignments = [("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom")]
    if outside:
        alignments = [("right", "center"), ("left", "center"), ("center", "bottom"), ("center", "top")]
    for letter, (x, y), (horizontal, vertical) in zip(VIEWS[view][1], positions, alignments, strict=True):
        axis.text(
            x,
            y,
            letter,
            color="white",
            fontsize=size,
            alpha=0.85,
            ha=horizontal,
            va=vertical,
            transform=axis.transAxes,
        )


def name_row(axis: Axes, view: str) -> None:
    """Write the letters of the sides into a row's first picture, and the view's name next to it.

    Args:
        axis: Matplotlib axes with the picture.
        view: Key of :data:`VIEWS`.
    """
    letter_sides(axis, view)
    axis.text(
        -0.02, 0.5, view, color="white", fontsize=10, rotation=90, ha="right", va="center", transform=axis.transAxes
    )
