"""Completeness check of a written file by the checksums and sizes that its format contains."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 2**22
"""Size of one read, bytes."""
_MAY_BE_EMPTY = {".txt", ".md", ".csv", ".json", ".jsonl"}
_GZIP = b"\x1f\x8b"
_PNG = b"\x89PNG\r\n\x1a\n"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_END_OFFSET = {0: 40, 1: 44, 2: 28, 3: 28}
"""Version of the superblock → byte offset of the end-of-file address (for 8-byte addresses)."""


class Incomplete(Exception):
    """A file whose content is not what its format requires; the message names the defect."""


def check_complete(path: Path) -> None:
    """Read a file and compare it with the checksums, end marks and sizes that it contains.

    Args:
        path: File of any format. Formats without such marks need only be readable and, unless
            they are text, not empty.

    Raises:
        Incomplete: If something is missing or differs from its checksum.
        OSError: If the file cannot be read.
    """
    if path.stat().st_size == 0 and path.suffix not in _MAY_BE_EMPTY:
        raise Incomplete("it is empty")
    _select_check(path)(path)


def inflate(file: BinaryIO, window_bits: int = zlib.MAX_WBITS | 32) -> Iterator[bytes]:
    """Decompress the rest of a gzip or zlib file, in chunks of limited size.

    Args:
        file: File positioned at the start of compressed data. Consecutive gzip members form one
            stream; bytes after the last member are ignored.
        window_bits: Argument of :func:`zlib.decompressobj`. Default: gzip or zlib, by the header.

    Yields:
        Chunks of at most 4 MiB.

    Raises:
        EOFError: If the data ends before its checksum.
        zlib.error: If the data is damaged or its checksum differs.
    """
    raw = file.read(_CHUNK_BYTES)
    while True:
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            if not raw and not (raw := file.read(_CHUNK_BYTES)):
                raise EOFError("compressed data ends too early")
            yield stream.decompress(raw, _CHUNK_BYTES)
            raw = stream.unconsumed_tail
        raw = stream.unused_data or file.read(_CHUNK_BYTES)
        if len(raw) < len(_GZIP):
            raw += file.read(_CHUNK_BYTES)
        if not raw.startswith(_GZIP):
            return


def _select_check(path: Path) -> Callable[[Path], None]:
    with path.open("rb") as file:
        head = file.read(8)
    name = path.name.lower()
    if name.endswith(".safetensors"):
        return _check_safetensors
    if head.startswith(_GZIP) or name.endswith(".gz"):
        return _check_gzip
    if head.startswith(b"PK") or name.endswith(".zip"):
        return _check_zip
    if head == _PNG or name.endswith(".png"):
        return _check_png
    if head == _HDF5 or name.endswith(".h5"):
        return _check_hdf5
    return _check_readable


def _check_readable(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(_CHUNK_BYTES):
            pass


def _check_gzip(path: Path) -> None:
    with path.open("rb") as file:
        try:
            for _ in inflate(file, zlib.MAX_WBITS | 16):
                pass
        except (EOFError, zlib.error) as error:
            raise Incomplete(str(error)) from None


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise Incomplete(str(error)) from None
    if damaged is not None:
        raise Incomplete(f"its part {damaged} is damaged")


def _check_png(path: Path) -> None:
    content = path.read_bytes()
    at = len(_PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 12 + length
        if end > len(content) or zlib.crc32(content[at + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            break
        if content[at + 4 : at + 8] == b"IEND":
            return
        at = end
    raise Incomplete("the picture is truncated or damaged")


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        try:
            entries = json.loads(file.read(length)) if 8 + length <= size else None
            ends = (
                [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
                if entries is not None
                else []
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            entries = None
    if entries is None or 8 + length + max(ends, default=0) != size:
        raise Incomplete("tensors are missing")
    _check_readable(path)


def _check_hdf5(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64)
    at = _HDF5_END_OFFSET.get(head[8] if len(head) > 8 else -1)
    if not head.startswith(_HDF5) or at is None or len(head) < at + 8:
        raise Incomplete("its header is missing")
    (end,) = struct.unpack_from("<Q", head, at)
    if path.stat().st_size < end:
        raise Incomplete(f"{end - path.stat().st_size} bytes are missing")
    _check_readable(path)
