"""What NIfTI readers mend silently: strange headers, missing voxels (read as zeros) and voxels that are no numbers (read as zeros too)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nnunet_anatomix.clinical.unusable import Unusable

_HEADER_BYTES = 540
"""Of NIfTI-2, whose header is the longer one."""
_FLOATS = {16: "f4", 64: "f8"}
_CHUNK_BYTES = 1 << 22
_BROKEN = "damaged header, or file is truncated"


@dataclass(frozen=True)
class _Header:
    order: str
    magic: bytes
    spacing_mm: tuple[float, ...]
    axes: tuple[float, ...]
    """Quaternion, offsets and affine."""
    codes: tuple[int, ...]
    datatype: int
    data_bytes: int
    data_at: int


def check_nifti_header(path: Path) -> None:
    """Refuse headers from which nothing certain follows.

    Raises
    ------
    Unusable
        For headers that are damaged, not finite, without positive spacing or without orientation.
    """
    header = _header(path)
    if header.magic not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise Unusable("Analyze file: says nothing about orientation")
    if not all(map(math.isfinite, (*header.spacing_mm, *header.axes))):
        raise Unusable("header holds NaN or infinity")
    if min(header.spacing_mm) <= 0:
        raise Unusable("spacing in the header is not positive")
    if not any(header.codes):
        raise Unusable("header says nothing about orientation (qform and sform codes are 0)")


def check_nifti_voxels(files: Sequence[Path]) -> None:
    """Refuse voxels that are missing or not finite.

    Parameters
    ----------
    files : the file, or header and data of a pair.

    Raises
    ------
    Unusable
        Saying which.
    """
    header = _header(files[0])
    kind = _FLOATS.get(header.datatype)
    try:
        with _opened(files[-1]) as file:
            if len(files) == 1:
                file.seek(header.data_at)
            left = header.data_bytes
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise Unusable("file is truncated")
                left -= len(chunk)
                # A short read may end within a voxel, only at the end of a file.
                if kind and not np.isfinite(np.frombuffer(chunk[: len(chunk) // 8 * 8], f"{header.order}{kind}")).all():
                    raise Unusable("NaN or infinite voxels")
    except (OSError, EOFError, zlib.error, ValueError, OverflowError):
        raise Unusable("file is truncated or damaged") from None


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _header(path: Path) -> _Header:
    try:
        with _opened(path) as file:
            data = file.read(_HEADER_BYTES)
        order = "<" if struct.unpack("<i", data[:4])[0] in (348, 540) else ">"
        (size,) = struct.unpack(f"{order}i", data[:4])
        if size == 348:
            dims, (datatype, bits) = struct.unpack(f"{order}8h", data[40:56]), struct.unpack(f"{order}2h", data[70:74])
            magic, pixdim, (offset,) = data[344:347], data[80:92], struct.unpack(f"{order}f", data[108:112])
            spacing_mm, codes = struct.unpack(f"{order}3f", pixdim), struct.unpack(f"{order}2h", data[252:256])
            axes = struct.unpack(f"{order}18f", data[256:328])
        elif size == 540:
            dims, (datatype, bits) = struct.unpack(f"{order}8q", data[16:80]), struct.unpack(f"{order}2h", data[12:16])
            magic, pixdim, (offset,) = data[4:7], data[112:136], struct.unpack(f"{order}q", data[168:176])
            spacing_mm, codes = struct.unpack(f"{order}3d", pixdim), struct.unpack(f"{order}2i", data[344:352])
            axes = struct.unpack(f"{order}18d", data[352:496])
        else:
            raise Unusable(_BROKEN)
        voxels = math.prod(dims[1 : dims[0] + 1])
        return _Header(order, magic, spacing_mm, axes, codes, datatype, voxels * bits // 8, int(offset))
    except (OSError, EOFError, zlib.error, struct.error, ValueError, OverflowError):
        raise Unusable(_BROKEN) from None
