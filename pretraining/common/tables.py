"""Tables as Markdown for reading and as CSV for further processing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table with aligned columns, which is also readable in a terminal.

    Args:
        columns: Headings.
        rows: Rows with one cell per column; cells are converted to text.

    Returns:
        Lines, each ending in a newline.
    """
    lines = [[_markdown_cell(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )


def csv_text(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, digits: int | None = 6, delimiter: str = ","
) -> str:
    """Format a CSV table with a header.

    Args:
        columns: Header; omitted if empty.
        rows: Rows with one value per column; None is an empty cell.
        digits: Significant digits of non-integers; None for full precision.
        delimiter: Character between cells.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", delimiter=delimiter)
    if columns:
        writer.writerow(columns)
    writer.writerows([_csv_cell(value, digits) for value in row] for row in rows)
    return text.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically.

    Args:
        path: File to write.
        columns: Header; omitted if empty.
        rows: Rows with one value per column; see :func:`csv_text`.
    """
    write_text(path, csv_text(columns, rows))


def write_records(path: Path, kind: type, records: Iterable[Any]) -> None:
    """Write dataclass instances as a CSV file with a column per field, atomically.

    Args:
        path: File to write.
        kind: Dataclass of all records.
        records: Instances, one per row.
    """
    columns = [field.name for field in fields(kind)]
    write_csv(path, columns, ([getattr(record, name) for name in columns] for record in records))


def _markdown_cell(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", r"\|")


def _csv_cell(value: object, digits: int | None) -> object:
    if digits is None or not isinstance(value, Real) or isinstance(value, Integral):
        return value
    return f"{float(value):.{digits}g}"
