"""``DST/intake.json``: whose intake a folder is, and which case has which number, for good."""

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
    return f"case_{number:03d}"


def case_digest(kind: str, key: tuple[str, str]) -> str:
    """What stands for a case in the register: patient and study cannot be read from it (who knows both can check)."""
    return hashlib.sha256("\0".join((kind, *key)).encode()).hexdigest()[:24]


@dataclass
class Register:
    """Numbers that cases have, by digest; a number is never given twice, nor changed."""

    owner: dict[str, Any]
    numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, destination: Path, root: Path, needs: Needs) -> Register:
        """The register of ``destination``, a new one if the folder is empty or missing.

        Raises:
            InputError: If the folder holds anything else, or the intake of another folder or for
                other channels.
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
                    f"{destination} holds something else; name a new or empty folder, or that of an earlier intake"
                )
            return cls(owner)
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            numbers, before = dict(said["cases"]), said["owner"]
            if said["format"] != _FORMAT or not all(isinstance(number, int) for number in numbers.values()):
                raise ValueError("another format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read {path} ({type(error).__name__}); name another DST, or move this one away"
            ) from None
        if before != owner:
            different = sorted(key for key in owner if before.get(key) != owner[key])
            raise InputError(
                f"{destination} holds another intake (other {', '.join(different)}); name another DST, or move it away"
            )
        return cls(owner, numbers)

    def give(self, digests: Iterable[str]) -> None:
        """Give a number to each case that has none, in this order."""
        for digest in digests:
            if digest not in self.numbers:
                self.numbers[digest] = max(self.numbers.values(), default=0) + 1

    def write(self, destination: Path) -> None:
        write_text(
            destination / REGISTER_FILE,
            json.dumps({"format": _FORMAT, "owner": self.owner, "cases": self.numbers}, indent=1) + "\n",
        )
