"""Binary masks as bits: cropped to the bounding box, eight voxels a byte."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pretraining.common.triple import triple


class PackedMask(NamedTuple):
    """A mask, cropped and bit-packed."""

    bits: np.ndarray
    """(bytes,) uint8, in C order, lowest bit first."""
    shape: tuple[int, int, int]
    """Of the bounding box, voxels."""
    offset: tuple[int, int, int]
    """Index of the box's first voxel in the mask."""
    voxel_count: int


def pack(mask: np.ndarray) -> PackedMask:
    """Crop a (X, Y, Z) mask to its bounding box and pack its bits.

    Raises:
        ValueError: If nothing is set.
    """
    tight, offset = crop(np.asarray(mask) != 0)
    if not tight.size:
        raise ValueError("the mask is empty")
    return PackedMask(
        np.packbits(tight, axis=None, bitorder="little"), tight.shape, offset, int(np.count_nonzero(tight))
    )


def crop(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The part of a (X, Y, Z) bool mask within its bounding box, a view, and where the box begins; (0, 0, 0) voxels if nothing is set."""
    offset = [0, 0, 0]
    # From the slowest axis in memory to the fastest, so that all but the first look at little more
    # than the box.
    for axis in sorted(range(3), key=lambda a: -abs(mask.strides[a])):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            return mask[:0, :0, :0], (0, 0, 0)
        offset[axis] = int(used[0])
        mask = mask[tuple(slice(used[0], used[-1] + 1) if a == axis else slice(None) for a in range(3))]
    return mask, triple(offset)


def unpack(bits: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(X, Y, Z) bool of these bits."""
    return np.unpackbits(bits, count=int(np.prod(shape)), bitorder="little").reshape(shape).view(np.bool_)


def packed_length(shapes: ArrayLike) -> np.ndarray:
    """Whole bytes that hold the bits of masks of these (..., 3) shapes."""
    return (np.asarray(shapes, dtype=np.int64).prod(axis=-1) + 7) // 8
