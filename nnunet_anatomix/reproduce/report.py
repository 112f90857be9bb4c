"""A table with the paper's numbers beside ours, as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nnunet_anatomix.reproduce.plan import Cell, Table
from pretraining.common.atomic import write_text
from pretraining.common.tables import markdown_table, write_csv

_NOTHING = "–"


def write_report(table: Table, out: Path, finished: Collection[str]) -> str:
    """Write ``OUT/TABLE.md`` and ``.csv``; each whole or not at all.

    Args:
        finished: Names of the steps whose results can be read.

    Returns:
        The table, as Markdown.
    """
    ours = [_ours(cell, finished) for cell in table.cells]
    text = markdown(table, ours)
    write_text(out / f"{table.name}.md", text)
    rows = (
        [cell.row, cell.column, cell.paper, number, cell.why_not]
        for cell, number in zip(table.cells, ours, strict=True)
    )
    write_csv(out / f"{table.name}.csv", ["row", "column", "paper", "ours", "why_not"], rows)
    return text


def markdown(table: Table, ours: list[str]) -> str:
    """Rows and columns as in the paper; a cell is ours, then the paper's in brackets."""
    rows, columns = (
        list(dict.fromkeys(names)) for names in zip(*((cell.row, cell.column) for cell in table.cells), strict=True)
    )
    cells = {
        (cell.row, cell.column): f"{number or _NOTHING} [{cell.paper or _NOTHING}]"
        for cell, number in zip(table.cells, ours, strict=True)
    }
    grid = markdown_table(
        ["", *columns], [[row, *(cells.get((row, column), _NOTHING) for column in columns)] for row in rows]
    )
    reasons: dict[str, list[Cell]] = {}
    for cell in table.cells:
        if cell.why_not:
            reasons.setdefault(cell.why_not, []).append(cell)
    why = [
        f"{', '.join(dict.fromkeys(cell.row for cell in those))} on {_listed(those)}: {reason}."
        for reason, those in reasons.items()
    ]
    notes = "".join(f"- {note}\n" for note in (*table.notes, *why))
    return f"{table.title}; in brackets the paper's\n\n{grid}\n{notes}"


def _listed(cells: list[Cell]) -> str:
    return ", ".join(dict.fromkeys(cell.column for cell in cells))


def _ours(cell: Cell, finished: Collection[str]) -> str:
    if cell.read is None or cell.why_not or not set(cell.steps) <= set(finished):
        return ""
    return cell.read()
