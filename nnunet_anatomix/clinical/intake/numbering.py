"""Register ``DST/intake.json``: the source of an intake, and the permanent numbers of its cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_anatomix.clinical.intake.needs import Needs
from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.lock import is_vacant

REGISTER_FILE = "intake.json"
_FORMAT = 1


def case_name(number: int) -> str:
    """Return the name of a case, such as ``case_001``."""
    return f"case_{number:03d}"


def case_digest(kind: str, key: tuple[str, str]) -> str:
    """Return the hash that identifies a case in the register.

    It does not reveal patient and study; who knows both can verify it.

    Args:
        kind: ``dicom`` or ``image``.
        key: Patient and study, or folder and name.
    """
    return hashlib.sha256("\0".join((kind, *key)).encode()).hexdigest()[:24]


@dataclass
class Register:
    """Numbers of the cases of an intake. A number is never changed or used twice."""

    owner: dict[str, Any]
    """Source, channels and file ending of the intake."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Hash of a case → its number."""

    @classmethod
    def open(cls, destination: Path, root: Path, needs: Needs) -> Register:
        """Read the register of ``destination``, or create one if the folder is empty or missing.

        Raises:
            InputError: If the folder has other content, or holds an intake of another source or
                for other channels.
        """
        owner = {
            "source": str(root),
            "channels": [channel.name for channel in needs.channels],
            "file_ending": needs.file_ending,
        }
        path = destination / REGISTER_FILE
        if not path.is_file():
            if not is_vacant(destination):
                raise InputError(
                    f"{destination} has other content; use a new or empty folder, or that of an earlier intake"
                )
            return cls(owner)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            numbers, before = dict(stored["cases"]), stored["owner"]
            if stored["format"] != _FORMAT or not all(isinstance(number, int) for number in numbers.values()):
                raise ValueError("another format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read {path} ({type(error).__name__}); choose another DST or move this one away"
            ) from None
        if before != owner:
            different = sorted(key for key in owner if before.get(key) != owner[key])
            raise InputError(
                f"{destination} holds another intake (other {', '.join(different)}); choose another DST or move it away"
            )
        return cls(owner, numbers)

    def assign(self, digests: Iterable[str]) -> None:
        """Assign the next number to each case that has none, in the given order."""
        for digest in digests:
            if digest not in self.numbers:
                self.numbers[digest] = max(self.numbers.values(), default=0) + 1

    def write(self, destination: Path) -> None:
        """Write ``DST/intake.json`` atomically."""
        write_text(
            destination / REGISTER_FILE,
            json.dumps({"format": _FORMAT, "owner": self.owner, "cases": self.numbers}, indent=1) + "\n",
        )
