"""Claim of a folder for one preparation, which the same preparation can resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import fingerprint
from pretraining.common.lock import hold_lock, is_vacant

PREPARATION_FILE = "preparation.json"


@contextmanager
def claim_folder(folder: Path, preparation: dict[str, Any]) -> Iterator[None]:
    """Lock a folder for one preparation.

    Args:
        folder: Folder to write into, created if missing.
        preparation: JSON values that identify the preparation.

    Raises:
        InputError: If the folder holds another preparation, or other files.
        InUse: If another process writes into the folder.
    """
    with hold_lock(folder):
        _claim(folder, preparation)
        yield


def _claim(folder: Path, preparation: dict[str, Any]) -> None:
    path = folder / PREPARATION_FILE
    text = json.dumps(preparation, indent=1) + "\n"
    if path.is_file():
        if (earlier := path.read_text(encoding="utf-8")) != text:
            before = json.loads(earlier)
            different = sorted(
                key for key in before.keys() | preparation.keys() if before.get(key) != preparation.get(key)
            )
            raise InputError(
                f"{folder} holds another preparation (different {', '.join(different)}), expected the same; "
                "use another --out, or move the folder away"
            )
    elif not is_vacant(folder):
        raise InputError(
            f"{folder} holds files that were not prepared by this command, expected an empty folder; "
            "use another --out, or move the folder away"
        )
    else:
        write_text(path, text)


def files_digest(files: Iterable[Path]) -> str:
    """Return a digest of the names and sizes of files."""
    return fingerprint([[path.name, path.stat().st_size] for path in sorted(files)])
