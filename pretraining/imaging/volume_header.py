"""Content of the header of an image file, whatever its format."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Compression = Literal["none", "gzip", "zlib", "other"]


@dataclass(frozen=True, kw_only=True)
class VolumeHeader:
    """Content of a header, not yet validated.

    Attributes:
        size: Number of voxels along each axis of space and time, X first; axes of length 1 beyond
            the third are omitted.
        values: Number of values per voxel.
        spacing_mm: Spacing along the first three axes or fewer.
        origin_mm: Centre of the first voxel, in the format's own frame; empty if the header has
            none.
        dtype: Type of the values, in the file's byte order; None for unsupported types and
            encodings.
        compression: Compression of the voxels; ``other`` is unsupported.
        data: File with the voxels; None if they are spread over several files.
        offset: Number of bytes before the voxels, after decompression if the header is compressed
            too; -1 for voxels at the end of the file.
        transforms: NIfTI's ``sform`` and ``qform``, (4, 4) from voxels to RAS mm; only those with a
            code above 0.
        header_is_compressed: Whether the header is part of the compressed data.
        is_nifti: Whether orientation and pairs of files follow NIfTI.
        is_analyze: Whether it is an Analyze file, the predecessor of NIfTI without orientation.
    """

    size: tuple[int, ...]
    values: int
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    dtype: np.dtype | None
    compression: Compression
    data: Path | None
    offset: int
    transforms: Mapping[str, np.ndarray] = field(default_factory=dict)
    header_is_compressed: bool = False
    is_nifti: bool = False
    is_analyze: bool = False

    @property
    def voxels(self) -> int:
        """Number of voxels, over all axes."""
        return math.prod(self.size)

    @property
    def data_bytes(self) -> int | None:
        """Decompressed size of the voxels, bytes; None for unsupported types."""
        return None if self.dtype is None else self.voxels * self.values * self.dtype.itemsize


def drop_trailing_ones(size: list[int]) -> tuple[int, ...]:
    """Remove trailing axes of length 1 beyond the third."""
    beyond = list(itertools.dropwhile(lambda side: side == 1, reversed(size[3:])))
    return (*size[:3], *reversed(beyond))
