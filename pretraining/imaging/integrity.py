"""Validation of image files before ITK repairs them silently.

ITK's readers fill in missing voxels of a NIfTI file, turn NaN into 0 and a spacing of 0 into 1 mm,
compare no checksum of compressed voxels, and allocate the memory that a header claims before they
read the file. All commands validate files here first, so that a damaged file gives the same message
everywhere.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from pretraining.common.byte_sizes import format_bytes
from pretraining.common.completeness import inflate
from pretraining.imaging.headers import read_header
from pretraining.imaging.limits import LARGEST_INFLATION, LARGEST_ORIGIN_MM, LARGEST_VOXELS, SANE_SPACING_MM
from pretraining.imaging.rejection import Rejected, unreadable
from pretraining.imaging.volume_header import VolumeHeader

CHUNK = 2**22
"""Size of one read, bytes."""
_COPY_AGAIN = "copy or download it again"


def check_file(path: Path) -> VolumeHeader | None:
    """Read a whole image file and refuse defects that ITK would repair silently.

    Args:
        path: Image file of any format.

    Returns:
        The header; None for formats other than NIfTI, NRRD, MetaImage and MGH, which are not
            checked.

    Raises:
        Rejected: If :func:`check_header` or :func:`check_voxels` refuses it.
    """
    header = read_header(path)
    if header is not None:
        check_header(header)
        check_voxels(header)
    return header


def check_header(header: VolumeHeader) -> None:
    """Refuse headers with impossible values, before any memory is allocated for them.

    Args:
        header: Header from :func:`~pretraining.imaging.headers.read_header`.

    Raises:
        Rejected: If spacing or origin is not finite or out of range, or if there are more voxels
            than any scan has, than the file can contain, or than fit into memory.
    """
    low, high = SANE_SPACING_MM
    if not all(low <= mm <= high for mm in header.spacing_mm):  # NaN fails here too
        spacing = _join_by_cross(header.spacing_mm)
        raise Rejected(f"spacing of {spacing} mm, expected {low:g} to {high:g} mm; correct its header")
    if not all(abs(mm) <= LARGEST_ORIGIN_MM for mm in header.origin_mm):
        origin = ", ".join(f"{mm:g}" for mm in header.origin_mm[:3])
        raise Rejected(
            f"its first voxel is at ({origin}) mm, expected at most {LARGEST_ORIGIN_MM:g} mm from 0; correct its header"
        )
    if not all(np.isfinite(transform).all() for transform in header.transforms.values()):
        raise Rejected("its header contains NaN or infinity; correct it")
    if header.voxels > LARGEST_VOXELS:
        sizes = " x ".join(map(str, header.size))
        raise Rejected(f"its header claims {sizes} voxels, expected at most {LARGEST_VOXELS:,}: damaged")
    if header.data is None or header.compression == "other" or (claimed := header.data_bytes) is None:
        return
    try:
        size = header.data.stat().st_size
    except FileNotFoundError:
        raise Rejected("the file with its voxels is missing") from None
    except OSError as error:
        raise unreadable(error) from None
    available = size - max(header.offset, 0) if header.compression == "none" else LARGEST_INFLATION * size
    if available < claimed:
        if header.compression == "none":
            missing = claimed - max(available, 0)
            raise Rejected(f"truncated: {missing:,} of {claimed:,} bytes of voxels are missing; {_COPY_AGAIN}")
        raise Rejected(
            f"truncated: {size:,} compressed bytes cannot contain the {claimed:,} bytes that its header claims; "
            f"{_COPY_AGAIN}"
        )
    if (free := psutil.virtual_memory().available) < claimed:
        raise Rejected(f"its voxels need {format_bytes(claimed)}B of memory, found {format_bytes(free)}B free")


def check_voxels(header: VolumeHeader, *, finite: bool = True) -> None:
    """Read all voxels, decompressed in chunks, and check them.

    Args:
        header: Header from :func:`~pretraining.imaging.headers.read_header`.
        finite: Whether NaN and infinity are refused.

    Raises:
        Rejected: If voxels are missing, a checksum differs, or a voxel is NaN or infinite.
    """
    kind, expected, rest = header.dtype, header.data_bytes, b""
    if header.data is None or header.compression == "other" or kind is None or expected is None:
        return
    seen = nan = infinite = 0
    is_checked = finite and kind.kind in "fc"
    try:
        for chunk in read_voxel_bytes(header, header.data, expected):
            if is_checked and seen < expected:
                used = rest + chunk[: expected - seen]
                whole = len(used) - len(used) % kind.itemsize
                numbers, rest = np.frombuffer(used[:whole], kind), used[whole:]
                if not np.isfinite(numbers).all():
                    nan += int(np.isnan(numbers).sum())
                    infinite += int(np.isinf(numbers).sum())
            seen += len(chunk)
    except EOFError:
        raise Rejected(f"truncated: its compressed voxels end too early; {_COPY_AGAIN}") from None
    except zlib.error as error:
        if "data check" in str(error):
            raise Rejected(f"damaged: the checksum of its compressed voxels differs; {_COPY_AGAIN}") from None
        raise Rejected(f"damaged: its compressed voxels cannot be decompressed; {_COPY_AGAIN}") from None
    except OSError as error:
        raise unreadable(error) from None
    if seen < expected:
        raise Rejected(f"truncated: {expected - seen:,} of {expected:,} bytes of voxels are missing; {_COPY_AGAIN}")
    if nan:
        raise Rejected(f"{_count_voxels(nan)} NaN on disk; replace them by the background's value")
    if infinite:
        raise Rejected(f"{_count_voxels(infinite)} infinite on disk; replace them by the background's value")


def require_volume(header: VolumeHeader) -> None:
    """Refuse images that are not a single volume of real numbers.

    Args:
        header: Header from :func:`~pretraining.imaging.headers.read_header`.

    Raises:
        Rejected: Unless there are three axes and one real number per voxel.
    """
    expected = "expected three dimensions and one real number per voxel"
    if len(header.size) > 3:
        raise Rejected(
            f"{len(header.size)}D: {math.prod(header.size[3:])} volumes in one file, {expected}; extract one"
        )
    if len(header.size) < 3:
        raise Rejected(f"2D image of {_join_by_cross(header.size)} voxels, {expected}")
    if header.values != 1:
        raise Rejected(f"{header.values} values per voxel (colour or vectors), {expected}; extract one channel")
    if header.dtype is not None and header.dtype.kind == "c":
        raise Rejected(f"complex numbers, {expected}; extract one channel")


def read_voxel_bytes(header: VolumeHeader, data: Path, expected: int) -> Iterator[bytes]:
    """Yield the bytes of the voxels, decompressed in chunks, and all bytes after them.

    Args:
        header: Header of the file.
        data: File with the voxels, :attr:`VolumeHeader.data`.
        expected: Number of bytes of the voxels, :attr:`VolumeHeader.data_bytes`.

    Raises:
        EOFError: If compressed data ends too early.
        zlib.error: If compressed data is damaged.
    """
    with data.open("rb") as file:
        skip = header.offset
        if header.compression == "none":
            file.seek(skip if skip >= 0 else max(0, data.stat().st_size - expected))
            while chunk := file.read(CHUNK):
                yield chunk
            return
        if not header.header_is_compressed:  # only the voxels are compressed
            file.seek(max(skip, 0))
            skip = 0
        for chunk in inflate(file):
            yield chunk[skip:]
            skip -= min(skip, len(chunk))


def _count_voxels(count: int) -> str:
    return "1 voxel is" if count == 1 else f"{count:,} voxels are"


def _join_by_cross(numbers: tuple[float, ...]) -> str:
    return "×".join(f"{number:g}" for number in numbers)
