"""Report of a table: the paper's numbers next to ours, as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from nnunet_anatomix.reproduce.plan import Cell, Table
from pretraining.common.atomic import write_text
from pretraining.common.tables import markdown_table, write_csv

_EMPTY = "–"


def write_report(table: Table, out: Path, finished: Collection[str]) -> str:
    """Write ``OUT/TABLE.md`` and ``OUT/TABLE.csv``, each atomically.

    Args:
        table: Table.
        out: Folder.
        finished: Names of the steps whose results can be read.

    Returns:
        The table, as Markdown.
    """
    ours = [_read_cell(cell, finished) for cell in table.cells]
    text = markdown(table, ours)
    write_text(out / f"{table.name}.md", text)
    rows = (
        [cell.row, cell.column, cell.paper, number, cell.why_not]
        for cell, number in zip(table.cells, ours, strict=True)
    )
    write_csv(out / f"{table.name}.csv", ["row", "column", "paper", "ours", "why_not"], rows)
    return text


def markdown(table: Table, ours: list[str]) -> str:
    """Format rows and columns as in the paper; each cell is our number, then the paper's."""
    rows, columns = (
        list(dict.fromkeys(names)) for names in zip(*((cell.row, cell.column) for cell in table.cells), strict=True)
    )
    cells = {
        (cell.row, cell.column): f"{number or _EMPTY} [{cell.paper or _EMPTY}]"
        for cell, number in zip(table.cells, ours, strict=True)
    }
    grid = markdown_table(
        ["", *columns], [[row, *(cells.get((row, column), _EMPTY) for column in columns)] for row in rows]
    )
    reasons: dict[str, list[Cell]] = {}
    for cell in table.cells:
        if cell.why_not:
            reasons.setdefault(cell.why_not, []).append(cell)
    why = [
        f"{_join(cell.row for cell in missing)} on {_join(cell.column for cell in missing)}: {reason}."
        for reason, missing in reasons.items()
    ]
    notes = "".join(f"- {note}\n" for note in (*table.notes, *why))
    return f"{table.title}; the paper's in brackets\n\n{grid}\n{notes}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _read_cell(cell: Cell, finished: Collection[str]) -> str:
    if cell.read is None or cell.why_not or not set(cell.steps) <= set(finished):
        return ""
    return cell.read()
