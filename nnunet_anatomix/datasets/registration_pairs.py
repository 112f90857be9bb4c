"""Pairs of scans as ``register --pairs`` and ``search --pairs`` read them, in parts for tuning and for testing.

Registration_NAME/images, labels, masks
Registration_NAME/validation.csv, test.csv     the pairs
Registration_NAME/pairs.json                   intensity windows and start, written last: the pairs are complete
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pretraining.common.atomic import write_text
from pretraining.common.config import read_json
from pretraining.common.errors import InputError
from pretraining.common.tables import write_csv

PAIRS_FILE = "pairs.json"
PARTS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What all pairs of a folder share."""

    name: str
    fixed_clip: tuple[float, float] | None = None
    """Intensities beyond which the fixed scans are cut."""
    moving_clip: tuple[float, float] | None = None
    init: str = "none"
    """Of ``register``: pairs that lie on each other already start from their headers."""


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One line of a CSV; paths relative to its folder."""

    name: str
    fixed: str
    moving: str
    fixed_labels: str
    moving_labels: str
    fixed_mask: str = ""
    moving_mask: str = ""


def write_pairs(folder: Path, settings: PairSettings, validation: Sequence[PairRow], test: Sequence[PairRow]) -> None:
    """Write both CSV files and, last, the settings; each whole or not at all."""
    for part, rows in zip(PARTS, (validation, test), strict=True):
        columns = [name for name in PairRow.__dataclass_fields__ if any(getattr(row, name) for row in rows)]
        write_csv(folder / f"{part}.csv", columns, ([getattr(row, name) for name in columns] for row in rows))
    write_text(folder / PAIRS_FILE, json.dumps(asdict(settings), indent=1) + "\n")


def read_pair_settings(folder: Path) -> PairSettings:
    """The settings of a prepared folder.

    Raises:
        InputError: If it was not prepared to its end.
    """
    if missing := [name for name in (*(f"{part}.csv" for part in PARTS), PAIRS_FILE) if not (folder / name).is_file()]:
        raise InputError(
            f"{folder} has no {', '.join(missing)}; expected pairs as nnunet-anatomix prepare writes them (docs/reproduce.md)"
        )
    return read_json(PairSettings, folder / PAIRS_FILE)
