"""Check of output paths before long work starts."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from pretraining.common.errors import InputError


def try_folder(folder: str | Path, name: str = "--out") -> None:
    """Check that a folder can be created and written to, and restore the previous state.

    Args:
        folder: Folder for results; need not exist.
        name: Name of the flag for messages.

    Raises:
        InputError: If the folder or one of its parents is a file, or the system refuses.
    """
    folder = Path(folder)
    obstacle = blocking_file(folder)
    if obstacle is not None:
        raise InputError(
            f"{name}: expected a folder for results at {folder}, but {obstacle} is a file; "
            "move it away, or name another folder"
        )
    created = [ancestor for ancestor in (folder, *folder.parents) if not ancestor.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-", buffering=0) as probe:
            probe.write(b"x")
    except OSError as error:
        raise InputError(
            f"{name}: cannot write to {folder} ({error.strerror or error}); make it writable, or name another folder"
        ) from None
    finally:
        for ancestor in created:
            with suppress(OSError):  # another process may have written into it
                ancestor.rmdir()


def try_file(path: str | Path, name: str = "--out") -> None:
    """Check that a file can be written, without touching an older one.

    Args:
        path: File for the result.
        name: Name of the flag for messages.

    Raises:
        InputError: If the path is a folder, or :func:`try_folder` refuses its folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{name}: expected a file for the result at {path}, but that is a folder; name a file in it")
    try_folder(path.parent, name)


def blocking_file(folder: Path) -> Path | None:
    """Return the file that prevents a folder from being created, or None.

    Args:
        folder: Folder whose path and parents are examined.
    """
    return next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
