"""Padding of CT: voxels outside the scanned region whose value is brighter than any tissue.

Scanners store it as a negative number. Programs that declare the stored values unsigned turn it
into a large one: -2000 becomes 63536, or 62512 HU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PADDING_HU = -1024
"""Value that replaces such padding."""


def replace_padding(values: np.ndarray, padding_hu: Sequence[float]) -> np.ndarray:
    """Replace implausible padding by :data:`PADDING_HU`.

    Args:
        values: Signed integers or floats of any shape, HU.
        padding_hu: Values of the padding, HU.

    Returns:
        The values, int16 if whole numbers fit into it.
    """
    if not len(padding_hu) or not (is_padding := np.isin(values, np.asarray(padding_hu))).any():
        return values
    replaced = np.where(is_padding, values.dtype.type(PADDING_HU), values)
    limits = np.iinfo(np.int16)
    if values.dtype.kind == "i" and limits.min <= replaced.min() and replaced.max() <= limits.max:
        return replaced.astype(np.int16)
    return replaced
