"""Check that an intensity window leaves contrast in a scan."""

from __future__ import annotations

import logging

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

MOST = 0.5
"""Share of the foreground that a window may cut without a warning."""


def check_contrast(scan: sitk.Image, window: tuple[float, float] | None, name: str) -> None:
    """Refuse a window that leaves a scan constant, and warn about one that cuts most of it.

    Args:
        scan: Scan with at least two different intensities.
        window: (lower, upper) intensity to which the scan is clipped; None passes.
        name: Name of the window for messages.

    Raises:
        InputError: If all voxels are at or beyond the same end of the window.

    Notes:
        The foreground, of which a share is cut, is what is brighter than the mean of the scan, so
        that air around the body does not count.
    """
    if window is None:
        return
    values = sitk.GetArrayViewFromImage(scan)
    low, high = float(values.min()), float(values.max())
    if high <= window[0] or low >= window[1]:
        raise InputError(
            f"{name}: {window[0]:g} to {window[1]:g} leaves no contrast, expected a window that overlaps the "
            f"scan's intensities, {low:g} to {high:g}; choose another window"
        )
    foreground = values[values > values.mean(dtype=np.float64)]
    share = float(((foreground < window[0]) | (foreground > window[1])).mean())
    if share > MOST:
        log.warning(
            "%s: %g to %g cuts %.0f %% of the scan's foreground (intensities are %g to %g); check the window",
            name,
            *window,
            100 * share,
            low,
            high,
        )
