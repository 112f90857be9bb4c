"""``intake.csv``: every series found, taken or not, and why.

It stays in the clinic: folder, description and UIDs lead back to patients. Names, IDs, birth dates
and accession numbers are not in it unless a folder or a description holds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.suitability import orientation
from nnunet_anatomix.clinical.walk import Stray
from pretraining.common.atomic import write_text
from pretraining.common.tables import csv_text

TABLE_FILE = "intake.csv"
TAKEN, WAITING, NOT_TAKEN = "yes", "waiting", "no"
COLUMNS = (
    "series",
    "taken",
    "case",
    "channel",
    "reason",
    "patient",
    "kind",
    "modality",
    "description",
    "image_type",
    "size",
    "spacing_mm",
    "orientation",
    "files",
    "folder",
    "first_file",
    "study_uid",
    "series_uid",
)


@dataclass(kw_only=True)
class Row:
    """What was decided about one series."""

    taken: str = NOT_TAKEN
    case: str = ""
    channel: str = ""
    reason: str = ""


def table_text(found: Mapping[int, Series], decided: Mapping[int, Row], strays: Iterable[Stray]) -> str:
    """The table as CSV: series by number, then files that are part of none, grouped by folder and reason.

    ``patient`` numbers the patients in the order of their first series; ``reason`` also holds
    remarks on series that were taken.
    """
    patients: dict[str, int] = {}
    for series in found.values():
        patients.setdefault(f"{series.kind} {series.patient}", len(patients) + 1)
    rows = [_series_row(number, series, decided[number], patients) for number, series in found.items()]
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stray in strays:
        path = PurePosixPath(stray.file.rstrip("/") or ".")
        grouped[(str(path.parent), stray.reason)].append(path.name)
    rows += [
        {
            "taken": NOT_TAKEN,
            "reason": reason,
            "kind": "other",
            "files": len(names),
            "folder": folder,
            "first_file": names[0],
        }
        for (folder, reason), names in sorted(grouped.items())
    ]
    return csv_text(COLUMNS, ([_harmless(row.get(column, "")) for column in COLUMNS] for row in rows))


def write_table(destination: Path, text: str) -> None:
    write_text(destination / TABLE_FILE, text)


def _series_row(number: int, series: Series, row: Row, patients: Mapping[str, int]) -> dict[str, object]:
    grid = series.grid
    return {
        "series": number,
        "taken": row.taken,
        "case": row.case,
        "channel": row.channel,
        "reason": row.reason,
        "patient": patients[f"{series.kind} {series.patient}"],
        "kind": series.kind,
        "modality": series.modality,
        "description": series.description,
        "image_type": "\\".join(series.image_type),
        "size": "×".join(map(str, grid.size)) if grid else "",
        "spacing_mm": "×".join(f"{mm:.4g}" for mm in grid.spacing_mm) if grid else "",
        "orientation": orientation(grid) if grid else "",
        "files": len(series.files),
        "folder": series.folder,
        "first_file": PurePosixPath(min(series.files)).name,
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
    }


def _harmless(value: object) -> object:
    """Text that a spreadsheet will not run as a formula, on one line and in UTF-8."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split()).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
