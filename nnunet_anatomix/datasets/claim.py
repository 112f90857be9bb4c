"""A folder belongs to one preparation: started again it goes on, and another one is refused."""

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
    """Make ``folder`` that of this preparation, and keep other processes out of it meanwhile.

    Args:
        folder: To write into; made if missing.
        preparation: Content that distinguishes it from other preparations; JSON types only.

    Raises:
        InputError: If the folder holds another preparation, or anything else.
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
                f"{folder} holds another preparation (other {', '.join(different)}); name another --out, or move it away"
            )
    elif not is_vacant(folder):
        raise InputError(f"{folder} holds something that was not prepared here; name another --out, or move it away")
    else:
        write_text(path, text)


def files_digest(files: Iterable[Path]) -> str:
    """Changes with the names and sizes of files."""
    said = [[path.name, path.stat().st_size] for path in sorted(files)]
    return fingerprint(said)
