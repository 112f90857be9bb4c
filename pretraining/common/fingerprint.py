"""Short digests of settings and inputs.

A resumed command compares them to find results that it must compute again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 2**20


def fingerprint(inputs: Any, *, length: int = 16) -> str:
    """Compute a digest of settings and inputs.

    Args:
        inputs: JSON types; other objects are converted to text.
        length: Number of hexadecimal digits, at most 64.
    """
    return hashlib.sha256(json.dumps(inputs, default=str).encode()).hexdigest()[:length]


def file_state(path: Path) -> list[Any]:
    """Return name, size and modification time of a file, for :func:`fingerprint`.

    This is fast, but a copy of a file counts as another file.

    Args:
        path: Existing file, or folder: then of all files below it.
    """
    if path.is_dir():
        return [str(path), *(file_state(file) for file in sorted(path.rglob("*")) if file.is_file())]
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, which is read in chunks.

    Args:
        path: Existing file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
