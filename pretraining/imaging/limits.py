"""Limits of valid image files, beyond which a header is damaged, and of intensities."""

from __future__ import annotations

import math

from pretraining.common.errors import InputError

SANE_SPACING_MM = (1e-4, 100.0)
"""Range of valid spacings: 0.1 μm to 10 cm."""
LARGEST_ORIGIN_MM = 1e6
"""Largest valid coordinate of the origin: 1 km. Beyond it, single precision is coarser than 0.1 mm.
"""
LARGEST_VOXELS = 2**31
"""Largest number of voxels, before or after resampling; no scan has more."""
LARGEST_INFLATION = 1032
"""Largest compression factor of deflate, the algorithm of gzip and zlib."""
TEXT_HEADER_BYTES = 2**20
"""Longest header of NRRD or MetaImage, bytes."""
CT_WINDOW_HU = (-450.0, 450.0)
"""Intensities to which the paper clips CT, for registration and for fine-tuning, HU."""


def check_spacing(spacing_mm: float | None, name: str = "spacing") -> None:
    """Refuse a spacing that is out of range; None passes.

    Args:
        spacing_mm: Spacing, mm.
        name: Name of the value in the error.

    Raises:
        InputError: Unless it is within :data:`SANE_SPACING_MM`.
    """
    low, high = SANE_SPACING_MM
    if spacing_mm is not None and not low <= spacing_mm <= high:  # NaN fails here too
        raise InputError(f"{name}: expected {low:g} to {high:g} mm, found {spacing_mm:g}")


def check_window(window: tuple[float, float] | None, name: str = "clip") -> None:
    """Refuse intensities that are not a valid window; None passes.

    Args:
        window: (lower, upper) intensity.
        name: Name of the value in the error.

    Raises:
        InputError: Unless there are two finite numbers, the lower one first.
    """
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(
            f"{name}: expected two finite intensities, the lower one first, found {window[0]:g} and {window[1]:g}"
        )
