"""A table with the paper's numbers beside ours, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from nnunet_anatomix.reproduce.plan import Cell, Table
from pretraining.atomic import write_text

_NOTHING = "–"


def write_report(table: Table, out: Path, finished: Collection[str]) -> str:
    """Write ``OUT/TABLE.md`` and ``.csv``; each whole or not at all.

    Parameters
    ----------
    finished : names of the steps whose results can be read.

    Returns
    -------
    The table, as Markdown.
    """
    ours = [_ours(cell, finished) for cell in table.cells]
    text = markdown(table, ours)
    write_text(out / f"{table.name}.md", text)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["row", "column", "paper", "ours", "why_not"])
    writer.writerows([cell.row, cell.column, cell.paper, number, cell.why_not] for cell, number in zip(table.cells, ours, strict=True))
    write_text(out / f"{table.name}.csv", lines.getvalue())
    return text


def markdown(table: Table, ours: list[str]) -> str:
    """Rows and columns as in the paper; a cell is ours, then the paper's in brackets."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*((cell.row, cell.column) for cell in table.cells), strict=True))
    cells = {
        (cell.row, cell.column): f"{number or _NOTHING} [{cell.paper or _NOTHING}]" for cell, number in zip(table.cells, ours, strict=True)
    }
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(cells.get((row, column), _NOTHING) for column in columns)] for row in rows]
    grid = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    reasons: dict[str, list[Cell]] = {}
    for cell in table.cells:
        if cell.why_not:
            reasons.setdefault(cell.why_not, []).append(cell)
    why = [f"{', '.join(dict.fromkeys(cell.row for cell in those))} on {_listed(those)}: {reason}." for reason, those in reasons.items()]
    notes = "".join(f"- {note}\n" for note in (*table.notes, *why))
    return f"{table.title}; in brackets the paper's\n\n{grid}\n{notes}"


def _listed(cells: list[Cell]) -> str:
    return ", ".join(dict.fromkeys(cell.column for cell in cells))


def _ours(cell: Cell, finished: Collection[str]) -> str:
    if cell.read is None or cell.why_not or not set(cell.steps) <= set(finished):
        return ""
    return cell.read()
