"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED_AFTER_S = 3600
"""No file takes that long to write."""


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``, else removed.

    An older file at ``path`` stays until the new one is complete, whatever happens in between. A process killed while
    writing leaves its temporary file behind; the first writing of ``path`` an hour later clears it away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since SimpleITK and matplotlib choose the format by it.
    prefix, suffix = f".{path.name.split('.')[0]}-", "".join(path.suffixes)
    for abandoned in path.parent.glob(f"{glob.escape(prefix)}????????{glob.escape(suffix)}"):
        with suppress(OSError):  # another process may be clearing up too
            if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER_S:
                abandoned.unlink()
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
