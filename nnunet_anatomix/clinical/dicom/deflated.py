"""Bounded inflation of deflated DICOM files: a small hostile file must not fill the memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

_MAX_HEADER_BYTES = 1 << 26
"""Largest inflated header: 64 MiB. Longer ones are refused."""
_CHUNK_BYTES = 1 << 20
_MAX_TRAILER_BYTES = 1 << 22
"""Largest size of what follows the pixel data, such as padding or a digital signature: 4 MiB."""
_MAX_RATIO = 100
_MAX_UNCHECKED_BYTES = 1 << 28
"""Pixel data of more than 256 MiB must not be more than 100 times as large as its file. Only a
hostile file is; slices of air, which compress better, are smaller.
"""


def inflate_start(stream: BinaryIO, at: int, size_bytes: int) -> bytes:
    """Inflate the first bytes of a data set.

    Args:
        stream: Open file.
        at: Offset of the deflated data set: the end of the file meta information.
        size_bytes: Number of inflated bytes to return; fewer if the data set is shorter.

    Raises:
        ValueError: If more than 64 MiB are asked for.
        zlib.error: If the stream is damaged.
    """
    if size_bytes > _MAX_HEADER_BYTES:
        raise ValueError("header of more than 64 MiB")
    parts: list[bytes] = []
    missing = size_bytes
    for part in _inflate(stream, at):
        parts.append(part[:missing])
        missing -= len(parts[-1])
        if not missing:
            break
    return b"".join(parts)


def find_inflation_problem(stream: BinaryIO, at: int, size_bytes: int, pixels_at: int, expected_bytes: int) -> str:
    """Return why the pixel data of a deflated file cannot be read, or an empty text.

    The data set is inflated piece by piece and not kept.

    Args:
        stream: Open file.
        at: Offset of the deflated data set.
        size_bytes: Size of the file.
        pixels_at: Offset of the pixel data element in the inflated data set.
        expected_bytes: Size of the decoded pixels according to the header.
    """
    needed = pixels_at + 12 + expected_bytes
    if expected_bytes > max(_MAX_UNCHECKED_BYTES, _MAX_RATIO * size_bytes):
        return f"file inflates to more than {_MAX_RATIO} times its size"
    found = 0
    try:
        for part in _inflate(stream, at):
            found += len(part)
            if found > needed + _MAX_TRAILER_BYTES:
                return "file inflates to more than its header says"
    except zlib.error:
        return "file is truncated or damaged"
    return "" if found >= needed else "file is truncated"


def _inflate(stream: BinaryIO, at: int) -> Iterator[bytes]:
    """Yield the inflated data set in pieces of at most 1 MiB."""
    stream.seek(at)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof:
        deflated = inflater.unconsumed_tail or stream.read(_CHUNK_BYTES)
        part = inflater.decompress(deflated, _CHUNK_BYTES)
        if not deflated and not part:
            return
        if part:
            yield part
