"""Tables: Markdown to read, CSV to go on computing with."""

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
    """Format a Markdown table whose columns are aligned, so that it can be read in a terminal, too.

    Args:
        columns: Headings.
        rows: One cell for each column, as it shall be read.

    Returns:
        Lines that end in a newline each.
    """
    lines = [[_markdown_cell(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, digits: int | None = 6) -> str:
    """Format a CSV table with a header.

    Args:
        columns: Header; left out if empty.
        rows: One value for each column; None is an empty cell.
        digits: Significant digits of numbers that are not whole; None for all that it takes to read
            the same number again.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if columns:
        writer.writerow(columns)
    writer.writerows([_csv_cell(value, digits) for value in row] for row in rows)
    return text.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the table of :func:`csv_text` as a file, whole or not at all."""
    write_text(path, csv_text(columns, rows))


def write_records(path: Path, kind: type, records: Iterable[Any]) -> None:
    """Write dataclasses of one ``kind`` as a CSV file, a column for each field; whole or not at all."""
    columns = [field.name for field in fields(kind)]
    write_csv(path, columns, ([getattr(record, name) for name in columns] for record in records))


def _markdown_cell(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", r"\|")


def _csv_cell(value: object, digits: int | None) -> object:
    if digits is None or not isinstance(value, Real) or isinstance(value, Integral):
        return value
    return f"{float(value):.{digits}g}"
