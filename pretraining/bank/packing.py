"""Bit-packed binary masks, cropped to the bounding box, eight voxels per byte."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pretraining.common.triple import triple


class PackedMask(NamedTuple):
    """Cropped and bit-packed mask."""

    bits: np.ndarray
    """(bytes,) uint8, in C order, lowest bit first."""
    shape: tuple[int, int, int]
    """Shape of the bounding box, voxels."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the mask."""
    voxel_count: int
    """Number of set voxels."""


def pack(mask: np.ndarray) -> PackedMask:
    """Crop a (X, Y, Z) mask to its bounding box and pack its bits.

    Raises:
        ValueError: If no voxel is set.
    """
    tight, offset = crop(np.asarray(mask) != 0)
    if not tight.size:
        raise ValueError("the mask is empty")
    return PackedMask(
        np.packbits(tight, axis=None, bitorder="little"), tight.shape, offset, int(np.count_nonzero(tight))
    )


def crop(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Crop a (X, Y, Z) bool mask to its bounding box.

    Returns:
        A view of the mask within the box, and the index of the box's first voxel. If no voxel is
        set, the view is empty and the index (0, 0, 0).
    """
    offset = [0, 0, 0]
    # From the slowest axis in memory to the fastest: then all axes but the first read little more
    # than the box.
    for axis in sorted(range(3), key=lambda a: -abs(mask.strides[a])):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            return mask[:0, :0, :0], (0, 0, 0)
        offset[axis] = int(used[0])
        mask = mask[tuple(slice(used[0], used[-1] + 1) if a == axis else slice(None) for a in range(3))]
    return mask, triple(offset)


def unpack(bits: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Unpack bits to a mask.

    Args:
        bits: (bytes,) uint8, in C order, lowest bit first.
        shape: (X, Y, Z) of the mask, voxels.

    Returns:
        (X, Y, Z) bool.
    """
    return np.unpackbits(bits, count=int(np.prod(shape)), bitorder="little").reshape(shape).view(np.bool_)


def packed_length(shapes: ArrayLike) -> np.ndarray:
    """Return the number of bytes, (...) int64, of packed masks of (..., 3) shapes."""
    return (np.asarray(shapes, dtype=np.int64).prod(axis=-1) + 7) // 8
