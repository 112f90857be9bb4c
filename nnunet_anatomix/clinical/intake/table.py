"""Table ``intake.csv``: every series found, whether it is taken, and why.

It stays in the clinic: folder, description and UIDs identify patients. It has no names, IDs, birth
dates or accession numbers, unless a folder or a description contains them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.intake.suitability import slice_orientation
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
    "volume",
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
class SeriesDecision:
    """Decision about one series."""

    taken: str = NOT_TAKEN
    """``yes``, ``waiting`` (chosen, not yet converted) or ``no``."""
    case: str = ""
    channel: str = ""
    reason: str = ""
    """Reason why the series is not taken, or remarks on a series that is."""


def format_table(found: Mapping[int, Series], decided: Mapping[int, SeriesDecision], strays: Iterable[Stray]) -> str:
    """Format the table as CSV.

    Series come first, in the order of their numbers, then the files outside any series, grouped by
    folder and reason. ``patient`` numbers the patients in the order of their first series.

    Args:
        found: Series number → series.
        decided: Series number → decision.
        strays: Files and folders that belong to no series.
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
    return csv_text(COLUMNS, ([_escape_formula(row.get(column, "")) for column in COLUMNS] for row in rows))


def write_table(destination: Path, text: str) -> None:
    """Write ``DST/intake.csv`` atomically."""
    write_text(destination / TABLE_FILE, text)


def _series_row(number: int, series: Series, row: SeriesDecision, patients: Mapping[str, int]) -> dict[str, object]:
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
        "volume": series.volume,
        "size": "×".join(map(str, grid.size)) if grid else "",
        "spacing_mm": "×".join(f"{mm:.4g}" for mm in grid.spacing_mm) if grid else "",
        "orientation": slice_orientation(grid) if grid else "",
        "files": len(set(series.files)),
        "folder": series.folder,
        "first_file": PurePosixPath(min(series.files)).name,
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
    }


def _escape_formula(value: object) -> object:
    """Return a text on one line, in UTF-8, that a spreadsheet does not evaluate as a formula."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split()).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
