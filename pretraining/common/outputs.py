"""Places for results, tried before the work that fills them: a folder that cannot be written to is no news after an hour."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from pretraining.common.errors import InputError


def try_folder(folder: str | Path, name: str = "--out") -> None:
    """Find out whether a folder can be made and written to; afterwards the disk is as it was before.

    Args:
        folder: For results; need not exist.
        name: What the user calls it, for messages.

    Raises:
        InputError: If a file is in the way, or the system refuses.
    """
    folder = Path(folder)
    obstacle = blocking_file(folder)
    if obstacle is not None:
        raise InputError(
            f"{name}: expected a folder for results at {folder}, but {obstacle} is a file; move it away, or name another"
        )
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-", buffering=0) as probe:
            probe.write(b"x")
    except OSError as error:
        raise InputError(
            f"{name}: cannot write to {folder} ({error.strerror or error}); make it writable, or name another place"
        ) from None
    finally:
        for one in made:
            with suppress(OSError):  # another process may fill it already
                one.rmdir()


def try_file(path: str | Path, name: str = "--out") -> None:
    """Find out whether a file can be written; an older one is not touched.

    Args:
        path: For the result.
        name: What the user calls it, for messages.

    Raises:
        InputError: If a folder has its name, or as :func:`try_folder`.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{name}: expected a file for the result at {path}, but that is a folder; name a file in it")
    try_folder(path.parent, name)


def blocking_file(folder: Path) -> Path | None:
    """The file that is in the way of a folder: in its place, or in that of a folder above it."""
    return next((one for one in (folder, *folder.parents) if one.exists() and not one.is_dir()), None)
