"""Whether an image file is as it was once written: what ITK's readers let pass.

They fill what a NIfTI file lacks with whatever is there and turn its NaN into 0, and of no format do they compare the checksum of
compressed voxels: an interrupted download or a bad disk would give shapes that no body ever had.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pretraining.engine.rejection import Rejected, unreadable

CHUNK = 2**24
"""Bytes that are looked at in one go."""
META_BYTES = {"UCHAR": 1, "CHAR": 1, "USHORT": 2, "SHORT": 2, "UINT": 4, "INT": 4, "ULONG_LONG": 8, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}


class Voxels(NamedTuple):
    """The voxels of a file, as bytes."""

    chunks: Iterator[bytes]
    expected: int | None = None
    """How many bytes there should be; None if the format's own reader sees to that."""
    float_type: np.dtype | None = None
    """Set where NaN is to be looked for."""


def check_intact(path: Path) -> None:
    """Read a NIfTI, NRRD or MetaImage file through.

    Raises
    ------
    Rejected
        If it was cut short, if a checksum within it disagrees, or if a NIfTI file holds NaN or infinity.
    """
    name = path.name.lower()
    opened = _nifti if name.endswith((".nii", ".nii.gz")) else _nrrd if name.endswith(".nrrd") else _metaimage
    try:
        with ExitStack() as stack:
            voxels = opened(path, stack.enter_context)
            if voxels is not None:
                _read_through(voxels)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise unreadable(error) from None


def _read_through(voxels: Voxels) -> None:
    seen = 0
    for chunk in voxels.chunks:
        if voxels.float_type is not None:
            used = chunk if voxels.expected is None else chunk[: max(0, voxels.expected - seen)]
            numbers = np.frombuffer(used[: len(used) // 8 * 8], dtype=voxels.float_type)
            if not np.isfinite(numbers).all():
                raise Rejected("expected labels, found NaN or infinity")
        seen += len(chunk)
    if voxels.expected is not None and seen < voxels.expected:
        raise Rejected(f"cut short: {voxels.expected - seen} of {voxels.expected} bytes are missing")


def _nifti(path: Path, enter: Callable) -> Voxels:
    file = enter(path.open("rb"))
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if compressed:
        file = enter(gzip.GzipFile(fileobj=file))
    header = file.read(348)
    order = "<" if header[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    if struct.unpack_from(order + "i", header)[0] == 540:
        header += file.read(192)
        kind, bits, *dims = struct.unpack_from(order + "hh8q", header, 12)
        (start,) = struct.unpack_from(order + "q", header, 168)
    else:
        dims = struct.unpack_from(order + "8h", header, 40)
        kind, bits = struct.unpack_from(order + "hh", header, 70)
        start = int(struct.unpack_from(order + "f", header, 108)[0])
    expected = math.prod(max(size, 1) for size in dims[1 : 1 + dims[0]]) * bits // 8
    float_type = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(kind)
    file.read(max(0, start - len(header)))
    return Voxels(_chunks(file), expected, float_type)


def _nrrd(path: Path, enter: Callable) -> Voxels | None:
    file = enter(path.open("rb"))
    fields = {}
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    if fields.get(b"encoding") not in (b"gzip", b"gz") or b"data file" in fields or b"datafile" in fields:
        return None
    return Voxels(_chunks(enter(gzip.GzipFile(fileobj=file))))


def _metaimage(path: Path, enter: Callable) -> Voxels | None:
    file = enter(path.open("rb"))
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields and (line := file.readline(CHUNK)):
        name, _, value = line.decode(errors="replace").partition("=")
        fields[name.strip()] = value.strip()
    element_bytes = META_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"))
    data = fields.get("ElementDataFile", "LIST")
    if data == "LIST" or "%" in data or "HeaderSize" in fields or element_bytes is None:
        return None
    if data != "LOCAL":
        file = enter((path.parent / data).open("rb"))
    try:
        expected = math.prod(map(int, fields["DimSize"].split())) * int(fields.get("ElementNumberOfChannels", 1)) * element_bytes
    except (KeyError, ValueError):  # ITK has an opinion on that
        return None
    return Voxels(_inflated(file) if fields.get("CompressedData", "False").lower() == "true" else _chunks(file), expected)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """All that follows; gzip compares its checksum at the end."""
    while chunk := file.read(CHUNK):
        yield chunk


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """All that a zlib stream holds, up to and with its checksum."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
    while not stream.eof:
        raw = stream.unconsumed_tail or file.read(CHUNK)
        if not raw:
            raise EOFError("compressed voxels end too early")
        yield stream.decompress(raw, CHUNK)
