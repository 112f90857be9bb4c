"""Files that appear whole or not at all: written beside, flushed, read back, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretraining.common.byte_sizes import format_bytes
from pretraining.common.completeness import Incomplete, check_complete
from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.outputs import blocking_file

_ABANDONED_AFTER_S = 3600
"""No file takes that long to write."""
_FULL = 2**20
"""Bytes: a disk with less than this left is taken for full when a library fails to write and does
not say why.
"""


class NotWritten(CommandFailed, OSError):
    """A file that did not arrive on disk whole; an older one of its name is still there."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


@contextmanager
def atomic_write(path: str | Path, *, verify: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there takes the place of ``path`` once it is known to be complete.

    The temporary file is flushed to disk and read back (see
    :func:`~pretraining.common.completeness.check_complete`) before it is renamed, since some
    libraries do not report a full disk. An older file at ``path`` stays until then, whatever
    happens.

    Args:
        path: The file to write. Missing folders are made.
        verify: Reads the temporary file back in place of ``check_complete``, and raises
            :class:`~pretraining.common.completeness.Incomplete` for one that is not what was meant
            to be written.

    Yields:
        The temporary path, an empty file with the suffix of ``path``, by which SimpleITK and
        matplotlib choose a format.

    Raises:
        InputError: If ``path`` is a folder, or something in its way is a file.
        NotWritten: If the disk is full, or the file on disk is not complete.

    Notes:
        A process killed while writing leaves its temporary file behind; writing ``path`` an hour
        later clears it away.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: a folder has this name; move it away, or name another file")
    if (obstacle := blocking_file(path.parent)) is not None:
        raise InputError(f"cannot write {path}: {obstacle} is a file, expected a folder; move it away, or name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{path.name.split('.')[0]}-", "".join(path.suffixes)
    for abandoned in path.parent.glob(f"{glob.escape(prefix)}????????{glob.escape(suffix)}"):
        with suppress(OSError):  # another process may be clearing up too
            if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER_S:
                abandoned.unlink()
    with _full_disk_reported(path):
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with _full_disk_reported(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        try:
            (verify or check_complete)(partial)
        except Incomplete as reason:
            raise NotWritten(f"{path} did not arrive on disk whole ({reason}); {_room(path.parent)}") from None
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
        _flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all.

    Args:
        path: The file to write. Missing folders are made.
        text: Its content; line ends are written as they are.

    Raises:
        InputError, NotWritten: As :func:`atomic_write`.
    """
    content = text.encode()

    def verify(partial: Path) -> None:
        if partial.read_bytes() != content:
            raise Incomplete("other bytes came back than were written")

    with atomic_write(path, verify=verify) as partial:
        partial.write_bytes(content)


@contextmanager
def _full_disk_reported(path: Path) -> Iterator[None]:
    """Turn a library's error into one line where the disk is full."""
    try:
        yield
    except Exception as error:
        said_so = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not said_so and (isinstance(error, InputError) or shutil.disk_usage(path.parent).free >= _FULL):
            raise
        raise NotWritten(f"{path} could not be written; {_room(path.parent)}") from error


def _room(folder: Path) -> str:
    free = format_bytes(shutil.disk_usage(folder).free)
    return f"{free}B are free on the disk of {folder}: make room there, or name another folder; an older file of this name is unchanged"


def _flush_folder(folder: Path) -> None:
    """Make the renaming itself last, where the system lets folders be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
