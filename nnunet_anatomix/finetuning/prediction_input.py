"""Check of the scans of ``nnUNetv2_predict``, before it reads them.

ITK turns NaN of NIfTI files into 0, and a NaN of other formats makes all of a scan background.
nnU-Net then writes a result without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pretraining.common.errors import InputError
from pretraining.imaging.integrity import check_file
from pretraining.imaging.rejection import Rejected

_PROGRAM = "nnUNetv2_predict"
_SCAN = re.compile(r"(?P<case>.+)_\d{4}\.\w+(\.gz)?")


def check_prediction_input(command: Sequence[str]) -> None:
    """Check the scans that a command line of ``nnUNetv2_predict`` names; others are ignored.

    Args:
        command: Program and arguments, as in ``sys.argv``.

    Raises:
        InputError: If a scan is damaged, or holds NaN or infinite voxels. The message names it.
    """
    if not command or not Path(command[0]).name.startswith(_PROGRAM):
        return
    folder = Path(_value(command, "-i", "nowhere"))
    parts, part = (_value(command, flag, default) for flag, default in (("-num_parts", "1"), ("-part_id", "0")))
    if not folder.is_dir() or not (parts.isdigit() and part.isdigit()):
        return  # nnU-Net refuses it
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _SCAN.fullmatch(path.name):
            files.setdefault(match["case"], []).append(path)
    for case in sorted(files)[int(part) :: max(1, int(parts))]:
        for path in files[case]:
            _check(path)


def _value(command: Sequence[str], flag: str, default: str) -> str:
    """Return the value of a flag; argparse would take nnU-Net's ``-p`` for ``-part_id``."""
    for word, following in pairwise([*command, ""]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return default


def _check(path: Path) -> None:
    if path.name.startswith("._"):
        raise InputError(
            f"{path} is not a scan but macOS's notes on one, and nnU-Net takes it for a case; "
            f"remove such files: find {path.parent} -name '._*' -delete"
        )
    try:
        check_file(path)
    except Rejected as reason:
        raise InputError(f"{path}: {reason}") from None
