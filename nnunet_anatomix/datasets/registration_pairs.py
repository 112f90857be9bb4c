"""Folders of pairs for ``register --pairs`` and ``search --pairs``, for tuning and testing.

Registration_NAME/images, labels, masks
Registration_NAME/validation.csv, test.csv     pairs for tuning and for testing
Registration_NAME/pairs.json                   settings, written last, marks a complete folder
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
    """Settings that all pairs of a folder share."""

    name: str
    fixed_clip: tuple[float, float] | None = None
    """Intensity range to which fixed scans are clipped."""
    moving_clip: tuple[float, float] | None = None
    """Intensity range to which moving scans are clipped."""
    init: str = "none"
    """Flag ``--init`` of ``register``; none for pairs that are aligned already."""


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
    """Write both CSV files and then the settings, each atomically."""
    for part, rows in zip(PARTS, (validation, test), strict=True):
        columns = [name for name in PairRow.__dataclass_fields__ if any(getattr(row, name) for row in rows)]
        write_csv(folder / f"{part}.csv", columns, ([getattr(row, name) for name in columns] for row in rows))
    write_text(folder / PAIRS_FILE, json.dumps(asdict(settings), indent=1) + "\n")


def read_pair_settings(folder: Path) -> PairSettings:
    """Read the settings of a prepared folder.

    Args:
        folder: Folder of pairs.

    Returns:
        The settings.

    Raises:
        InputError: If the preparation is incomplete.
    """
    if missing := [name for name in (*(f"{part}.csv" for part in PARTS), PAIRS_FILE) if not (folder / name).is_file()]:
        raise InputError(
            f"{folder}: expected {', '.join(missing)}, found none; "
            "create the pairs with nnunet-anatomix prepare (docs/reproduce.md)"
        )
    return read_json(PairSettings, folder / PAIRS_FILE)
