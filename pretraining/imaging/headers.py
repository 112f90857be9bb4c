"""Parsers for headers of NIfTI, NRRD, MetaImage and MGH files, without ITK's silent corrections."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from pretraining.imaging.limits import TEXT_HEADER_BYTES
from pretraining.imaging.mgh_header import MGH_SUFFIXES, read_mgh_header
from pretraining.imaging.nifti_header import NIFTI_SUFFIXES, read_nifti_header
from pretraining.imaging.rejection import Rejected, unreadable
from pretraining.imaging.volume_header import Compression, VolumeHeader, drop_trailing_ones

NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
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


def read_header(path: Path) -> VolumeHeader | None:
    """Read the header of an image file without reading its voxels.

    Args:
        path: Image file; its suffix determines the expected format.

    Returns:
        The header; None for formats other than NIfTI, NRRD, MetaImage and FreeSurfer's MGH.

    Raises:
        Rejected: If the file does not exist, or has no valid header of that format.
    """
    name = path.name.lower()
    if not name.endswith((*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES, *MGH_SUFFIXES)):
        return None
    try:
        if path.stat().st_size == 0:
            raise Rejected("empty file")
        if name.endswith(NIFTI_SUFFIXES):
            return read_nifti_header(path)
        if name.endswith(NRRD_SUFFIXES):
            return _read_nrrd(path)
        if name.endswith(MGH_SUFFIXES):
            return read_mgh_header(path)
        return _read_metaimage(path)
    except OSError as error:
        raise unreadable(error) from None


def _read_nrrd(path: Path) -> VolumeHeader:
    lines, offset = _read_text_header(path, b"\n\n", b"\r\n\r\n")
    if not lines or not lines[0].startswith("NRRD"):
        raise Rejected("damaged: it does not begin with an NRRD header")
    pairs = [line.split(":", 1) for line in lines[1:] if ":" in line and ":=" not in line and not line.startswith("#")]
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        if not sizes or min(sizes) < 1:
            raise ValueError
        kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
        directions = _parse_vectors(fields["space directions"]) if "space directions" in fields else None
        spacings = [float(number) for number in fields["spacings"].split()] if "spacings" in fields else None
        origin = _parse_vectors(fields["space origin"])[0] if "space origin" in fields else ()
        spatial = [
            axis
            for axis, kind in enumerate(kinds)
            if kind in ("domain", "space", "time") and (not directions or directions[axis] is not None)
        ]
        if directions:
            spacings = [math.hypot(*direction) if direction else 1.0 for direction in directions]
        spacing = [(spacings or [1.0] * len(sizes))[axis] for axis in spatial[:3]]
    except (KeyError, ValueError, IndexError, TypeError):
        raise Rejected("damaged: its header gives no valid size or geometry") from None
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
        size=drop_trailing_ones([sizes[axis] for axis in spatial]),
        values=math.prod(size for axis, size in enumerate(sizes) if axis not in spatial),
        spacing_mm=tuple(spacing),
        origin_mm=tuple(origin or ()),
        dtype=np.dtype((">" if fields.get("endian", "").lower() == "big" else "<") + kind) if kind else None,
        compression=compression if data else "other",
        data=data,
        offset=-1 if skip < 0 else skip + (0 if detached else offset),
    )


def _parse_vectors(text: str) -> list[tuple[float, ...] | None]:
    """Parse NRRD's vectors, such as ``(1,0,0) none (0,1,0)``."""
    found = re.findall(r"\(([^()]*)\)|(none)", text, re.IGNORECASE)
    return [None if none else tuple(float(number) for number in vector.split(",")) for vector, none in found]


def _read_metaimage(path: Path) -> VolumeHeader:
    lines, offset = _read_text_header(path, re.compile(rb"ElementDataFile[^\n]*\n?"))
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
        raise Rejected("damaged: it does not begin with a MetaImage header that gives its size") from None
    named = fields.get("ElementDataFile", "LIST")
    several = named.upper().startswith("LIST") or "%" in named
    kind = _META_TYPES.get(fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY"))
    is_binary = _is_true(fields.get("BinaryData", "True"))
    big = _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    return VolumeHeader(
        size=drop_trailing_ones(size),
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


def _read_text_header(path: Path, *ends: bytes | re.Pattern[bytes]) -> tuple[list[str], int]:
    """Return the lines of a header, and the offset after its first end mark or the file's end."""
    with path.open("rb") as file:
        content = file.read(TEXT_HEADER_BYTES)
    patterns = [end if isinstance(end, re.Pattern) else re.compile(re.escape(end)) for end in ends]
    found = min((match.end() for pattern in patterns if (match := pattern.search(content))), default=len(content))
    return content[:found].decode("utf-8", "replace").splitlines(), found


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "t", "yes")
