"""Colours of structures, the same in DICOM SEG and overview pictures."""

from __future__ import annotations

import colorsys

import numpy as np

_FIRST = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#ffe119",
    "#f58231",
    "#42d4f4",
    "#f032e6",
    "#bfef45",
    "#fabed4",
    "#469990",
    "#dcbeff",
    "#9a6324",
)
"""Colours that differ clearly from each other and from grey."""
_GOLDEN = 0.618034
"""Step of the hue: the golden ratio spreads any number of hues evenly."""


def structure_colours(count: int) -> np.ndarray:
    """Return ``count`` distinct colours: (count, 3) sRGB in [0, 1]."""
    named = [[int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)] for text in _FIRST[:count]]
    more = [
        colorsys.hsv_to_rgb(number * _GOLDEN % 1, (0.55, 0.9)[number % 2], (1.0, 0.8)[number % 3 == 0])
        for number in range(count - len(named))
    ]
    return np.array([*named, *more])
