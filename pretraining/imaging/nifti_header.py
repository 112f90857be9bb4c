"""Parser for headers of NIfTI-1, NIfTI-2 and Analyze files."""

from __future__ import annotations

import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from pretraining.imaging.limits import TEXT_HEADER_BYTES
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.volume_header import VolumeHeader, drop_trailing_ones

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
_NIFTI_BYTES = 540
"""Length of a NIfTI-2 header, the longer of the two versions, bytes."""
_NIFTI_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "u1", 256: "i1", 512: "u2", 768: "u4"},
    **{1024: "i8", 1280: "u8", 1792: "c16", 2304: "u1"},
}
_NIFTI_COLOURS = {128: 3, 2304: 4}
_DAMAGED_NIFTI = "damaged: it does not begin with a NIfTI header"


def read_nifti_header(path: Path) -> VolumeHeader:
    """Read the header of a NIfTI or Analyze file without its voxels.

    Args:
        path: One of the files of the image.

    Raises:
        Rejected: If a file is missing, or the header is damaged.
        OSError: If a file cannot be read.
    """
    header, data, compressed = _find_nifti_files(path)
    content = _read_nifti_bytes(header)
    order = "<" if content[:4] in (struct.pack("<i", 348), struct.pack("<i", _NIFTI_BYTES)) else ">"
    try:
        (length,) = struct.unpack_from(f"{order}i", content)
        if length == 348:
            dims, (kind, bits) = (
                struct.unpack_from(f"{order}8h", content, 40),
                struct.unpack_from(f"{order}2h", content, 70),
            )
            pixdim, (offset,) = (
                struct.unpack_from(f"{order}8f", content, 76),
                struct.unpack_from(f"{order}f", content, 108),
            )
            codes, axes = (
                struct.unpack_from(f"{order}2h", content, 252),
                struct.unpack_from(f"{order}18f", content, 256),
            )
            magic = content[344:347]
        elif length == _NIFTI_BYTES:
            dims, (kind, bits) = (
                struct.unpack_from(f"{order}8q", content, 16),
                struct.unpack_from(f"{order}2h", content, 12),
            )
            pixdim, (offset,) = (
                struct.unpack_from(f"{order}8d", content, 104),
                struct.unpack_from(f"{order}q", content, 168),
            )
            codes, axes = (
                struct.unpack_from(f"{order}2i", content, 344),
                struct.unpack_from(f"{order}18d", content, 352),
            )
            magic = content[4:7]
        else:
            raise Rejected(_DAMAGED_NIFTI)
    except struct.error:
        raise Rejected(f"truncated: {len(content)} bytes are not a complete header") from None
    if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1 or not math.isfinite(offset):
        raise Rejected("damaged: its header gives no valid size")
    sides = [*dims[1 : 1 + dims[0]], *[1] * 7][:7]
    if kind not in _NIFTI_TYPES and bits < 8:
        raise Rejected("damaged: its header gives no valid data type")
    transforms = {"qform": _quaternion_affine(pixdim, axes[:6])} if codes[0] > 0 else {}
    if codes[1] > 0:
        transforms["sform"] = np.vstack([np.reshape(axes[6:], (3, 4)), [0, 0, 0, 1]])
    return VolumeHeader(
        size=drop_trailing_ones(sides[:4]) if dims[0] > 2 else tuple(sides[: dims[0]]),
        values=math.prod(sides[4:]) * _NIFTI_COLOURS.get(kind, 1),
        spacing_mm=pixdim[1 : 1 + min(3, dims[0])],
        origin_mm=tuple(number for transform in transforms.values() for number in transform[:3, 3]),
        dtype=np.dtype(order + _NIFTI_TYPES[kind]) if kind in _NIFTI_TYPES else None,
        compression="gzip" if compressed else "none",
        data=data,
        offset=0 if data != header else max(int(offset), len(content) if length == _NIFTI_BYTES else 348),
        transforms=transforms,
        header_is_compressed=compressed,
        is_nifti=True,
        is_analyze=magic not in (b"n+1", b"ni1", b"n+2", b"ni2"),
    )


def _find_nifti_files(path: Path) -> tuple[Path, Path, bool]:
    """Return the header file, the voxel file, and whether the voxel file is compressed."""
    name = path.name.lower()
    header = data = path
    if not name.endswith((".nii", ".nii.gz")):
        stem = re.sub(r"\.(hdr|img(\.gz)?)$", "", path.name, flags=re.IGNORECASE)
        siblings = {sibling.name.lower(): sibling for sibling in path.parent.iterdir()}
        header = siblings.get(f"{stem.lower()}.hdr", path.with_name(f"{stem}.hdr"))
        names = [f"{stem.lower()}.img", f"{stem.lower()}.img.gz"]
        found = [siblings[name] for name in names if name in siblings]
        if not found:
            raise Rejected("the file with its voxels is missing")
        data = found[0]
    with data.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed and not data.name.lower().endswith(".gz"):
        raise Rejected("compressed, although its name does not end in .gz; rename it")
    return header, data, compressed


def _read_nifti_bytes(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed, up to the length of a NIfTI header."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file.read(_NIFTI_BYTES)
        file.seek(0)
        try:
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(file.read(TEXT_HEADER_BYTES), _NIFTI_BYTES)
        except zlib.error:
            raise Rejected("damaged: its compressed header cannot be decompressed") from None


def _quaternion_affine(pixdim: tuple[float, ...], numbers: tuple[float, ...]) -> np.ndarray:
    b, c, d, *offset = numbers
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d)) if all(map(math.isfinite, (b, c, d))) else math.nan
    rotation = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine = np.eye(4)
    with np.errstate(invalid="ignore"):  # validated later
        affine[:3, :3] = np.array(rotation) * (pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1))
    affine[:3, 3] = offset
    return affine
