"""Headers of NIfTI, NRRD and MetaImage files as they stand on disk, before ITK mends them."""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pretraining.imaging.limits import TEXT_HEADER_BYTES
from pretraining.imaging.rejection import Rejected, unreadable

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
_NIFTI_BYTES = 540
"""Of NIfTI-2, whose header is the longer one."""
_NIFTI_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "u1", 256: "i1", 512: "u2", 768: "u4"},
    **{1024: "i8", 1280: "u8", 1792: "c16", 2304: "u1"},
}
_NIFTI_COLOURS = {128: 3, 2304: 4}
Compression = Literal["none", "gzip", "zlib", "other"]
_NRRD_COMPRESSIONS: dict[str, Compression] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}
_NRRD_TYPES = {"float": "f4", "double": "f8"} | {
    name: code
    for code, names in {
        "i1": "signed char|int8|int8_t",
        "u1": "uchar|unsigned char|uint8|uint8_t",
        "i2": "short|short int|signed short|signed short int|int16|int16_t",
        "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
        "i4": "int|signed int|int32|int32_t",
        "u4": "uint|unsigned int|uint32|uint32_t",
        "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
        "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    }.items()
    for name in names.split("|")
}
_META_TYPES = {
    **{"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"},
    **{"LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"},
}
_DAMAGED_NIFTI = "damaged: it does not begin with the header of a NIfTI file"


@dataclass(frozen=True, kw_only=True)
class VolumeHeader:
    """What a header claims; nothing of it has been judged.

    Attributes:
        size: Voxels along each axis of space and time, X first; axes of length 1 beyond the third
            are left out.
        values: Numbers in a voxel.
        spacing_mm: Along the first three axes or fewer.
        origin_mm: Centre of the first voxel, in the format's own frame; empty where the header says
            nothing.
        dtype: Of the numbers, in the file's byte order; None for a type or an encoding that is not
            looked into.
        compression: Of the voxels; ``other`` is not looked into.
        data: The file with the voxels; None if they are spread over several files.
        offset: Bytes before the voxels, once decompressed for NIfTI; -1 for voxels at the end of
            the file.
        transforms: NIfTI's ``sform`` and ``qform``, (4, 4) voxels to RAS mm, those whose codes say
            that they hold.
        is_nifti: Whether orientation and pairs of files are those of NIfTI.
        is_analyze: Whether it is an older file than NIfTI, which knows no orientation.
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
    is_nifti: bool = False
    is_analyze: bool = False

    @property
    def voxels(self) -> int:
        """How many there are, over all axes."""
        return math.prod(self.size)

    @property
    def data_bytes(self) -> int | None:
        """Bytes that the voxels take, decompressed; None where the type is not looked into."""
        return None if self.dtype is None else self.voxels * self.values * self.dtype.itemsize


def read_header(path: Path) -> VolumeHeader | None:
    """Read the header of an image file without reading its voxels.

    Args:
        path: An image file; its name says which format to expect.

    Returns:
        None for a format other than NIfTI, NRRD and MetaImage.

    Raises:
        Rejected: If there is no such file, or it does not begin as its name says.
    """
    name = path.name.lower()
    if not name.endswith((*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)):
        return None
    try:
        if path.stat().st_size == 0:
            raise Rejected("empty file")
        if name.endswith(NIFTI_SUFFIXES):
            return _nifti(path)
        if name.endswith(NRRD_SUFFIXES):
            return _nrrd(path)
        return _metaimage(path)
    except OSError as error:
        raise unreadable(error) from None


def _nifti(path: Path) -> VolumeHeader:
    header, data, compressed = _nifti_files(path)
    content = _first_bytes(header)
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
        raise Rejected(f"cut short: {len(content)} bytes are no whole header") from None
    if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1 or not math.isfinite(offset):
        raise Rejected("damaged: its header names no size")
    sides = [*dims[1 : 1 + dims[0]], *[1] * 7][:7]
    if kind not in _NIFTI_TYPES and bits < 8:
        raise Rejected("damaged: its header names no type of voxels")
    transforms = {"qform": _quaternion_affine(pixdim, axes[:6])} if codes[0] > 0 else {}
    if codes[1] > 0:
        transforms["sform"] = np.vstack([np.reshape(axes[6:], (3, 4)), [0, 0, 0, 1]])
    return VolumeHeader(
        size=_without_ones(sides[:4]) if dims[0] > 2 else tuple(sides[: dims[0]]),
        values=math.prod(sides[4:]) * _NIFTI_COLOURS.get(kind, 1),
        spacing_mm=pixdim[1 : 1 + min(3, dims[0])],
        origin_mm=tuple(number for transform in transforms.values() for number in transform[:3, 3]),
        dtype=np.dtype(order + _NIFTI_TYPES[kind]) if kind in _NIFTI_TYPES else None,
        compression="gzip" if compressed else "none",
        data=data,
        offset=0 if data != header else max(int(offset), len(content) if length == _NIFTI_BYTES else 348),
        transforms=transforms,
        is_nifti=True,
        is_analyze=magic not in (b"n+1", b"ni1", b"n+2", b"ni2"),
    )


def _nifti_files(path: Path) -> tuple[Path, Path, bool]:
    """The file with the header, that with the voxels, and whether the latter is compressed."""
    name = path.name.lower()
    header = data = path
    if not name.endswith((".nii", ".nii.gz")):
        stem = re.sub(r"\.(hdr|img(\.gz)?)$", "", path.name, flags=re.IGNORECASE)
        beside = {one.name.lower(): one for one in path.parent.iterdir()}
        header = beside.get(f"{stem.lower()}.hdr", path.with_name(f"{stem}.hdr"))
        found = [beside[one] for ending in (".img", ".img.gz") if (one := stem.lower() + ending) in beside]
        if not found:
            raise Rejected("the file with its voxels is missing")
        data = found[0]
    with data.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed and not data.name.lower().endswith(".gz"):
        raise Rejected("compressed, although its name does not end in .gz; rename it")
    return header, data, compressed


def _first_bytes(path: Path) -> bytes:
    """As many as a header of NIfTI has, decompressed."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file.read(_NIFTI_BYTES)
        file.seek(0)
        try:
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(file.read(TEXT_HEADER_BYTES), _NIFTI_BYTES)
        except zlib.error:
            raise Rejected("damaged: its compressed header cannot be unpacked") from None


def _quaternion_affine(pixdim: tuple[float, ...], numbers: tuple[float, ...]) -> np.ndarray:
    b, c, d, *offset = numbers
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d)) if all(map(math.isfinite, (b, c, d))) else math.nan
    rotation = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine = np.eye(4)
    with np.errstate(invalid="ignore"):  # judged later
        affine[:3, :3] = np.array(rotation) * (pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1))
    affine[:3, 3] = offset
    return affine


def _nrrd(path: Path) -> VolumeHeader:
    lines, offset = _text_header(path, b"\n\n", b"\r\n\r\n")
    if not lines or not lines[0].startswith("NRRD"):
        raise Rejected("damaged: it does not begin with the header of an NRRD file")
    pairs = [line.split(":", 1) for line in lines[1:] if ":" in line and ":=" not in line and not line.startswith("#")]
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        if not sizes or min(sizes) < 1:
            raise ValueError
        kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
        directions = _vectors(fields["space directions"]) if "space directions" in fields else None
        spacings = [float(number) for number in fields["spacings"].split()] if "spacings" in fields else None
        origin = _vectors(fields["space origin"])[0] if "space origin" in fields else ()
        spatial = [
            axis
            for axis, kind in enumerate(kinds)
            if kind in ("domain", "space", "time") and (not directions or directions[axis] is not None)
        ]
        if directions:
            spacings = [math.hypot(*direction) if direction else 1.0 for direction in directions]
        spacing = [(spacings or [1.0] * len(sizes))[axis] for axis in spatial[:3]]
    except (KeyError, ValueError, IndexError, TypeError):
        raise Rejected("damaged: its header names no size, or no place for its voxels") from None
    kind = _NRRD_TYPES.get(fields.get("type", "").lower())
    encoding = fields.get("encoding", "").lower()
    compression = _NRRD_COMPRESSIONS.get(encoding, "other")
    named = fields.get("data file") or fields.get("datafile")
    detached = path.parent / named if named else None
    if named and (named.upper().startswith("LIST") or "%" in named or "line skip" in fields or "lineskip" in fields):
        data = None
    else:
        data = detached or path
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")) or 0)
    return VolumeHeader(
        size=_without_ones([sizes[axis] for axis in spatial]),
        values=math.prod(size for axis, size in enumerate(sizes) if axis not in spatial),
        spacing_mm=tuple(spacing),
        origin_mm=tuple(origin or ()),
        dtype=np.dtype((">" if fields.get("endian", "").lower() == "big" else "<") + kind) if kind else None,
        compression=compression if data else "other",
        data=data,
        offset=-1 if skip < 0 else skip + (0 if detached else offset),
    )


def _vectors(text: str) -> list[tuple[float, ...] | None]:
    """``(1,0,0) none (0,1,0)`` as numbers."""
    found = re.findall(r"\(([^()]*)\)|(none)", text, re.IGNORECASE)
    return [None if none else tuple(float(number) for number in vector.split(",")) for vector, none in found]


def _metaimage(path: Path) -> VolumeHeader:
    lines, offset = _text_header(path, re.compile(rb"ElementDataFile[^\n]*\n?"))
    fields = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    try:
        size = [int(side) for side in fields["DimSize"].split()]
        values = int(fields.get("ElementNumberOfChannels", 1))
        header_bytes = int(fields.get("HeaderSize", 0))
        spacing = [float(mm) for mm in fields.get("ElementSpacing", fields.get("ElementSize", "")).split()] or [
            1.0
        ] * len(size)
        origin = next((fields[name] for name in ("Offset", "Position", "Origin") if name in fields), "")
        origin_mm = tuple(float(mm) for mm in origin.split())
        if not size or min(size) < 1 or values < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise Rejected("damaged: it does not begin with the header of a MetaImage file that names its size") from None
    named = fields.get("ElementDataFile", "LIST")
    several = named.upper().startswith("LIST") or "%" in named
    kind = _META_TYPES.get(fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY"))
    is_binary = _is_true(fields.get("BinaryData", "True"))
    big = _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    return VolumeHeader(
        size=_without_ones(size),
        values=values,
        spacing_mm=tuple(spacing[:3]),
        origin_mm=origin_mm[:3],
        dtype=np.dtype((">" if big else "<") + kind) if kind and is_binary else None,
        compression="other"
        if several or not is_binary
        else "zlib"
        if _is_true(fields.get("CompressedData", "False"))
        else "none",
        data=None if several else path if named.upper() == "LOCAL" else path.parent / named,
        offset=header_bytes or (offset if named.upper() == "LOCAL" else 0),
    )


def _text_header(path: Path, *ends: bytes | re.Pattern[bytes]) -> tuple[list[str], int]:
    """Lines of a header, and where what follows it begins: after the first of ``ends``, or the file's end."""
    with path.open("rb") as file:
        content = file.read(TEXT_HEADER_BYTES)
    patterns = [end if isinstance(end, re.Pattern) else re.compile(re.escape(end)) for end in ends]
    found = min((match.end() for pattern in patterns if (match := pattern.search(content))), default=len(content))
    return content[:found].decode("utf-8", "replace").splitlines(), found


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "t", "yes")


def _without_ones(size: list[int]) -> tuple[int, ...]:
    """Less the axes of length 1 at the end, beyond the third."""
    beyond = list(itertools.dropwhile(lambda side: side == 1, reversed(size[3:])))
    return (*size[:3], *reversed(beyond))
