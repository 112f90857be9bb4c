"""Atomic writes: a file is written under a temporary name, flushed, read back, then renamed."""

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
"""Age of an abandoned temporary file, seconds; no file takes that long to write."""
_FULL_DISK_BYTES = 2**20
"""Free space below which a failed write is reported as a full disk, if the library gives no
reason.
"""


class NotWritten(CommandFailed, OSError):
    """A file that is incomplete on disk; an older file of the same name is unchanged."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


@contextmanager
def atomic_write(path: str | Path, *, verify: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that replaces ``path`` once it is complete.

    The temporary file is flushed to disk and read back (see
    :func:`~pretraining.common.completeness.check_complete`) before it is renamed, since some
    libraries do not report a full disk. An older file at ``path`` is unchanged until then.

    Args:
        path: File to write. Missing folders are created.
        verify: Function that reads the temporary file back, instead of ``check_complete``. It
            raises :class:`~pretraining.common.completeness.Incomplete` if the file is not as
            intended.

    Yields:
        The temporary path, an empty file with the suffix of ``path``, from which SimpleITK and
        matplotlib choose a format.

    Raises:
        InputError: If ``path`` is a folder, or one of its parent folders is a file.
        NotWritten: If the disk is full, or the file on disk is incomplete.

    Notes:
        A process that is killed while writing leaves its temporary file behind; the next write of
        ``path`` after an hour removes it.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: a folder has this name; move it away, or name another file")
    if (obstacle := blocking_file(path.parent)) is not None:
        raise InputError(f"cannot write {path}: {obstacle} is a file, expected a folder; move it away, or name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{path.name.split('.')[0]}-", "".join(path.suffixes)
    for abandoned in path.parent.glob(f"{glob.escape(prefix)}????????{glob.escape(suffix)}"):
        with suppress(OSError):  # another process may remove it at the same time
            if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER_S:
                abandoned.unlink()
    with _report_full_disk(path):
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with _report_full_disk(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        try:
            (verify or check_complete)(partial)
        except Incomplete as reason:
            raise NotWritten(f"{path} is incomplete on disk ({reason}); {_describe_free_space(path.parent)}") from None
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
        _flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically.

    Args:
        path: File to write. Missing folders are created.
        text: Content; line ends are written unchanged.

    Raises:
        InputError: If ``path`` is a folder, or one of its parent folders is a file.
        NotWritten: If the disk is full, or the file on disk is incomplete.
    """
    content = text.encode()

    def verify(partial: Path) -> None:
        if partial.read_bytes() != content:
            raise Incomplete("the bytes read back differ from those written")

    with atomic_write(path, verify=verify) as partial:
        partial.write_bytes(content)


@contextmanager
def _report_full_disk(path: Path) -> Iterator[None]:
    """Turn a library's error into one line if the disk is full."""
    try:
        yield
    except Exception as error:
        is_reported = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        has_space = shutil.disk_usage(path.parent).free >= _FULL_DISK_BYTES
        if not is_reported and (isinstance(error, InputError) or has_space):
            raise
        raise NotWritten(f"{path} could not be written; {_describe_free_space(path.parent)}") from error


def _describe_free_space(folder: Path) -> str:
    free = format_bytes(shutil.disk_usage(folder).free)
    return (
        f"{free}B are free on the disk of {folder}: free some space there, or choose another folder; "
        "an older file of this name is unchanged"
    )


def _flush_folder(folder: Path) -> None:
    """Flush the renaming to disk, if the system allows flushing a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
