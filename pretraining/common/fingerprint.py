"""Short digests that change with what a result was made from, so that a resumed command knows what to make again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 2**20


def fingerprint(made_from: Any, *, length: int = 16) -> str:
    """Digest of settings and inputs.

    Args:
        made_from: JSON types; anything else counts as its text.
        length: Hexadecimal digits, at most 64.
    """
    return hashlib.sha256(json.dumps(made_from, default=str).encode()).hexdigest()[:length]


def file_state(path: Path) -> list[Any]:
    """Name, size and time of change of a file, for :func:`fingerprint`: quick, but a copy counts as another file."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes; they are read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
