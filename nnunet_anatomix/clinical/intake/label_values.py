"""Distinction of masks and label maps from scans by their values, without reading a whole scan."""

from __future__ import annotations

import numpy as np

from pretraining.imaging.integrity import read_voxel_bytes
from pretraining.imaging.label_files import FEW_VALUES, LABEL_LIMIT, LEAST_AGREEMENT
from pretraining.imaging.volume_header import VolumeHeader

_SURE_PAIRS = 100_000
"""Number of pairs of neighbours after which their agreement is reliable."""
_SURE_AGREEMENT = 0.3
"""Agreement far enough below that of label maps to stop reading."""


def has_label_values(header: VolumeHeader) -> bool:
    """Return whether the voxels of a sound image file are labels, not intensities.

    The criteria are those of :func:`pretraining.imaging.label_files.label_map`, with neighbours
    along the first axis only. Reading stops as soon as the answer is certain: after the first
    megabytes of most scans.

    Args:
        header: Header of the file.

    Returns:
        False also if the file is damaged or its encoding is unknown.
    """
    kind, expected = header.dtype, header.data_bytes
    if header.data is None or header.compression == "other" or kind is None or not expected or kind.kind not in "iuf":
        return False
    seen: set[float] = set()
    pairs = equal = 0
    rest = b""
    read = 0
    try:
        for chunk in read_voxel_bytes(header, header.data, expected):
            used = rest + chunk[: max(0, expected - read)]
            read += len(chunk)
            whole = len(used) - len(used) % kind.itemsize
            values, rest = np.frombuffer(used[:whole], kind), used[whole:]
            if not values.size:
                continue
            if not np.isfinite(values).all() or values.min() < 0 or (kind.kind == "f" and (values % 1 != 0).any()):
                return False
            seen.update(np.unique(values).tolist())
            if len(seen) > LABEL_LIMIT:
                return False
            inside = (values[1:] != 0) & (values[:-1] != 0)
            pairs += int(np.count_nonzero(inside))
            equal += int(np.count_nonzero(inside & (values[1:] == values[:-1])))
            if len(seen - {0}) > FEW_VALUES and pairs > _SURE_PAIRS and equal < _SURE_AGREEMENT * pairs:
                return False
    except Exception:  # damaged: the reader of the scan gives the reason
        return False
    return bool(seen) and (len(seen - {0}) <= FEW_VALUES or equal >= LEAST_AGREEMENT * max(pairs, 1))
