"""Read a file back and find out whether all of it arrived on disk, by the marks that its format has for that."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_AT_ONCE = 2**22
"""Bytes read in one go."""
_MAY_BE_EMPTY = {".txt", ".md", ".csv", ".json", ".jsonl"}
_GZIP = b"\x1f\x8b"
_PNG = b"\x89PNG\r\n\x1a\n"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}
"""Version of the superblock: where the address of the file's end stands (for addresses of 8 bytes).

"""


class Incomplete(Exception):
    """A file lacks something that its own format promises; the message says what."""


def check_complete(path: Path) -> None:
    """Read a file through and compare it with its own checksums, ends and sizes.

    Args:
        path: A file of any kind. Kinds without such marks need only be readable and, unless they
            are text, not empty.

    Raises:
        Incomplete: If something is missing or differs from its checksum.
        OSError: If the file cannot be read.
    """
    if path.stat().st_size == 0 and path.suffix not in _MAY_BE_EMPTY:
        raise Incomplete("it is empty")
    _checker(path)(path)


def inflate(file: BinaryIO, window_bits: int = zlib.MAX_WBITS | 32) -> Iterator[bytes]:
    """Decompress what follows in a gzip or zlib file, in chunks of limited size.

    Args:
        file: At the beginning of compressed data. Several gzip members in a row are one stream;
            bytes after the last one are left alone.
        window_bits: As for :func:`zlib.decompressobj`; by default gzip and zlib are told apart by
            their headers.

    Yields:
        At most 4 MiB each.

    Raises:
        EOFError: If the data ends before its checksum.
        zlib.error: If it is damaged; checksums are compared.
    """
    raw = file.read(_AT_ONCE)
    while True:
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            if not raw and not (raw := file.read(_AT_ONCE)):
                raise EOFError("compressed data ends too early")
            yield stream.decompress(raw, _AT_ONCE)
            raw = stream.unconsumed_tail
        raw = stream.unused_data or file.read(_AT_ONCE)
        if len(raw) < len(_GZIP):
            raw += file.read(_AT_ONCE)
        if not raw.startswith(_GZIP):
            return


def _checker(path: Path) -> Callable[[Path], None]:
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
        while file.read(_AT_ONCE):
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
    raise Incomplete("the picture ends too early, or is damaged")


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
    at = _HDF5_END_AT.get(head[8] if len(head) > 8 else -1)
    if not head.startswith(_HDF5) or at is None or len(head) < at + 8:
        raise Incomplete("its header is missing")
    (end,) = struct.unpack_from("<Q", head, at)
    if path.stat().st_size < end:
        raise Incomplete(f"{end - path.stat().st_size} bytes are missing")
    _check_readable(path)
