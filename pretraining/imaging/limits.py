"""What a sound image file stays within; more is a damaged or hostile header."""

from __future__ import annotations

import math

from pretraining.common.errors import InputError

SANE_SPACING_MM = (1e-4, 100.0)
"""From a tenth of a micrometre to ten centimetres."""
LARGEST_ORIGIN_MM = 1e6
"""A kilometre: beyond it, single precision places no voxel to a tenth of a millimetre."""
LARGEST_VOXELS = 2**31
"""More voxels than any scan has, before or after resampling."""
LARGEST_INFLATION = 1032
"""Deflate, the compression of gzip and zlib, makes no file smaller than by this factor."""
TEXT_HEADER_BYTES = 2**20
"""No header of NRRD or MetaImage is longer."""


def check_spacing(spacing_mm: float | None, name: str = "spacing") -> None:
    """Refuse a spacing that no grid can have; None passes.

    Raises:
        InputError: Unless it is within :data:`SANE_SPACING_MM`.
    """
    low, high = SANE_SPACING_MM
    if spacing_mm is not None and not low <= spacing_mm <= high:  # NaN fails here too
        raise InputError(f"{name}: expected {low:g} to {high:g} mm, found {spacing_mm:g}")


def check_window(window: tuple[float, float] | None, name: str = "clip") -> None:
    """Refuse intensities that are no window; None passes.

    Raises:
        InputError: Unless there are two finite numbers, the lower one first.
    """
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(
            f"{name}: expected two finite intensities, the lower one first, found {window[0]:g} and {window[1]:g}"
        )
