"""Judge an image file before ITK repairs it.

ITK's readers fill in what a NIfTI file lacks, turn its NaN into 0 and a spacing of 0 into 1 mm,
compare no checksum of compressed voxels, and take the memory that a header claims before they look
at the file. Every entrance asks here first, so that a file gets the same verdict, in the same
words, wherever it is named.
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
from pretraining.imaging.headers import VolumeHeader, read_header
from pretraining.imaging.limits import LARGEST_INFLATION, LARGEST_ORIGIN_MM, LARGEST_VOXELS, SANE_SPACING_MM
from pretraining.imaging.rejection import Rejected, unreadable

CHUNK = 2**22
"""Bytes that are looked at in one go."""
_AGAIN = "copy or download it again"


def check_file(path: Path) -> VolumeHeader | None:
    """Read an image file through and refuse what ITK would repair in silence.

    Args:
        path: An image file of any format.

    Returns:
        Its header; None for formats other than NIfTI, NRRD and MetaImage, which nothing is known of
        here.

    Raises:
        Rejected: As :func:`check_header` and :func:`check_voxels`.
    """
    header = read_header(path)
    if header is not None:
        check_header(header)
        check_voxels(header)
    return header


def check_header(header: VolumeHeader) -> None:
    """Refuse claims that cannot be true, before any memory is taken for them.

    Raises:
        Rejected: For spacings and places that are not finite or not sane, more voxels than any scan
            has, and more than the file can hold or the memory take.
    """
    low, high = SANE_SPACING_MM
    if not all(low <= mm <= high for mm in header.spacing_mm):  # NaN fails here too
        raise Rejected(f"spacing of {_by(header.spacing_mm)} mm, expected {low:g} to {high:g} mm; mend its header")
    if not all(abs(mm) <= LARGEST_ORIGIN_MM for mm in header.origin_mm):
        place = ", ".join(f"{mm:g}" for mm in header.origin_mm[:3])
        raise Rejected(
            f"its first voxel lies at ({place}) mm, expected at most {LARGEST_ORIGIN_MM:g} mm from 0; mend its header"
        )
    if not all(np.isfinite(transform).all() for transform in header.transforms.values()):
        raise Rejected("its header holds NaN or infinity; mend it")
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
    there = size - max(header.offset, 0) if header.compression == "none" else LARGEST_INFLATION * size
    if there < claimed:
        if header.compression == "none":
            raise Rejected(
                f"cut short: {claimed - max(there, 0):,} of {claimed:,} bytes of voxels are missing; {_AGAIN}"
            )
        raise Rejected(
            f"cut short: {size:,} compressed bytes cannot hold the {claimed:,} bytes that its header claims; {_AGAIN}"
        )
    if (free := psutil.virtual_memory().available) < claimed:
        raise Rejected(f"its voxels take {format_bytes(claimed)}B of memory, but there is {format_bytes(free)}B")


def check_voxels(header: VolumeHeader, *, finite: bool = True) -> None:
    """Read all voxels, decompressed piece by piece.

    Args:
        header: As :func:`~pretraining.imaging.headers.read_header` gives it.
        finite: Whether NaN and infinity are refused.

    Raises:
        Rejected: If voxels are missing, a checksum disagrees, or a voxel is NaN or infinite.
    """
    kind, expected, rest = header.dtype, header.data_bytes, b""
    if header.data is None or header.compression == "other" or kind is None or expected is None:
        return
    seen = nan = infinite = 0
    looked_at = finite and kind.kind in "fc"
    try:
        for chunk in _data(header, header.data, expected):
            if looked_at and seen < expected:
                used = rest + chunk[: expected - seen]
                whole = len(used) - len(used) % kind.itemsize
                numbers, rest = np.frombuffer(used[:whole], kind), used[whole:]
                if not np.isfinite(numbers).all():
                    nan += int(np.isnan(numbers).sum())
                    infinite += int(np.isinf(numbers).sum())
            seen += len(chunk)
    except EOFError:
        raise Rejected(f"cut short: its compressed voxels end too early; {_AGAIN}") from None
    except zlib.error as error:
        if "data check" in str(error):
            raise Rejected(f"damaged: the checksum of its compressed voxels disagrees; {_AGAIN}") from None
        raise Rejected(f"damaged: its compressed voxels cannot be unpacked; {_AGAIN}") from None
    except OSError as error:
        raise unreadable(error) from None
    if seen < expected:
        raise Rejected(f"cut short: {expected - seen:,} of {expected:,} bytes of voxels are missing; {_AGAIN}")
    if nan:
        raise Rejected(f"{_are(nan)} NaN on disk; replace them by the background's value")
    if infinite:
        raise Rejected(f"{_are(infinite)} infinite on disk; replace them by the background's value")


def require_volume(header: VolumeHeader) -> None:
    """Refuse what is no single volume of real numbers.

    Raises:
        Rejected: For other than three axes, several numbers in a voxel, complex numbers.
    """
    expected = "expected three dimensions and one real number in a voxel"
    if len(header.size) > 3:
        raise Rejected(
            f"{len(header.size)}D: {math.prod(header.size[3:])} volumes in one file, {expected}; extract one"
        )
    if len(header.size) < 3:
        raise Rejected(f"2D image of {_by(header.size)} voxels, {expected}")
    if header.values != 1:
        raise Rejected(f"{header.values} values per voxel (colour or vectors), {expected}; extract one channel")
    if header.dtype is not None and header.dtype.kind == "c":
        raise Rejected(f"complex numbers, {expected}; extract one channel")


def _data(header: VolumeHeader, data: Path, expected: int) -> Iterator[bytes]:
    """Yield the ``expected`` bytes of the voxels and all that follows them."""
    with data.open("rb") as file:
        skip = header.offset
        if header.compression == "none":
            file.seek(skip if skip >= 0 else max(0, data.stat().st_size - expected))
            while chunk := file.read(CHUNK):
                yield chunk
            return
        if not header.is_nifti:  # only the voxels are compressed
            file.seek(max(skip, 0))
            skip = 0
        for chunk in inflate(file):
            yield chunk[skip:]
            skip -= min(skip, len(chunk))


def _are(count: int) -> str:
    return "1 voxel is" if count == 1 else f"{count:,} voxels are"


def _by(numbers: tuple[float, ...]) -> str:
    return "×".join(f"{number:g}" for number in numbers)
