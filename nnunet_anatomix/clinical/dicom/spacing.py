"""Distances of slices: even, uneven by the scanner's protocol, or with slices missing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nnunet_anatomix.clinical.dicom.volumes import SAME_POSITION_MM
from pretraining.imaging.limits import SANE_SPACING_MM
from pretraining.imaging.rejection import Unusable

UNEVEN_SHARE = 0.05
"""Largest deviation of a slice from an evenly spaced stack, fraction of the slice spacing."""
_MIN_RUN = 3
"""Smallest number of equal gaps that a protocol with several slice spacings has."""
_SIMILAR_GAPS = 1.51
"""Largest ratio of neighbouring gaps that are irregular but too similar for a missing slice."""
_MAX_FINER = 4
"""Largest number of planes of the even grid, relative to the number of slices."""


class SliceSpacing(NamedTuple):
    """Distance of the planes of an even grid through a stack of slices."""

    spacing_mm: float
    planes: int
    is_even: bool
    """True if the slices are the planes."""


def find_spacing(heights_mm: np.ndarray, thicknesses_mm: np.ndarray) -> SliceSpacing:
    """Return the spacing of an even grid through a stack of slices.

    Args:
        heights_mm: Ascending positions of the slices along their normal.
        thicknesses_mm: Thickness of each slice; NaN if unknown.

    Returns:
        The spacing; of uneven slices, the smallest one, or a half or a third of it if all slices
            are planes of that grid.

    Raises:
        Unusable: If slices are missing, or the spacing changes without a pattern.

    Notes:
        Head CT often has thin slices at the skull base and thick ones above, so that gaps come in
        runs, follow the thickness, or change smoothly. A missing slice makes a single gap of twice
        the spacing.
    """
    gaps = np.diff(heights_mm)
    even = float((heights_mm[-1] - heights_mm[0]) / (len(heights_mm) - 1))
    off_place = np.abs(heights_mm - heights_mm[0] - even * np.arange(len(heights_mm)))
    slack = max(UNEVEN_SHARE * even, 2 * SAME_POSITION_MM if even > 10 * SAME_POSITION_MM else 0)
    if off_place.max() <= slack and np.abs(gaps - even).max() <= slack:
        _require_sane(even)
        return SliceSpacing(even, len(heights_mm), True)
    typical = float(np.median(gaps))
    if not _follows_protocol(gaps, thicknesses_mm):
        steps = np.round(gaps / typical)
        whole = np.abs(gaps - steps * typical) <= np.maximum(UNEVEN_SHARE * typical, 2 * SAME_POSITION_MM)
        if whole.all() and (steps >= 1).all() and np.mean(steps > 1) <= 1 / 3:
            missing = int((steps - 1).sum())
            raise Unusable(
                f"missing slices: {missing} of {len(heights_mm) + missing} "
                f"(gaps of {gaps.max():.4g} mm, spacing {typical:.4g} mm)"
            )
        raise Unusable(f"mixed slice spacing: from {gaps.min():.4g} to {gaps.max():.4g} mm")
    spacing_mm = _choose_spacing(heights_mm - heights_mm[0], gaps)
    _require_sane(spacing_mm)
    planes = int(np.ceil((heights_mm[-1] - heights_mm[0]) / spacing_mm - UNEVEN_SHARE)) + 1
    return SliceSpacing(spacing_mm, planes, False)


def _choose_spacing(heights_mm: np.ndarray, gaps: np.ndarray) -> float:
    """Return the smallest gap, or a part of it by which all slices are planes of the grid."""
    allowed = [
        float(gap)
        for gap in (gaps.min(), gaps.min() / 2, gaps.min() / 3)
        if heights_mm[-1] / gap <= _MAX_FINER * len(heights_mm)
    ]
    for gap in allowed:
        if np.abs(heights_mm - gap * np.round(heights_mm / gap)).max() <= UNEVEN_SHARE * gap:
            return gap
    return allowed[0] if allowed else float(np.median(gaps))


def _follows_protocol(gaps: np.ndarray, thicknesses_mm: np.ndarray) -> bool:
    """Return whether the gaps come in runs, follow the thickness, or change smoothly."""
    if np.abs(np.diff(np.log(gaps))).max(initial=0) <= np.log(_SIMILAR_GAPS):
        return True
    around = np.stack([thicknesses_mm[:-1], (thicknesses_mm[:-1] + thicknesses_mm[1:]) / 2, thicknesses_mm[1:]])
    if np.isfinite(around).all() and (np.abs(around - gaps).min(axis=0) <= 2 * UNEVEN_SHARE * gaps).all():
        return True
    changes = np.flatnonzero(np.abs(np.diff(gaps)) > UNEVEN_SHARE * gaps[:-1] + 2 * SAME_POSITION_MM) + 1
    runs = np.split(gaps, changes)
    for number, run in enumerate(runs):
        between = 0 < number < len(runs) - 1 and (
            min(runs[number - 1][-1], runs[number + 1][0]) < run.mean() < max(runs[number - 1][-1], runs[number + 1][0])
        )
        if len(run) < _MIN_RUN and not (len(run) == 1 and between):
            return False
    return True


def _require_sane(spacing_mm: float) -> None:
    if not SANE_SPACING_MM[0] <= spacing_mm <= SANE_SPACING_MM[1]:
        raise Unusable(f"slice spacing of {spacing_mm:g} mm is implausible")
