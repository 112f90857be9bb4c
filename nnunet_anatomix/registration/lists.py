"""Lists of scans or pairs: CSV files with a header, one row each, paths relative to the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pretraining.common.errors import InputError


class ListRow(NamedTuple):
    """One scan or pair."""

    name: str
    """Name of the row, unique, usable in file names."""
    cells: dict[str, str]
    """Column -> cell, without the name and empty cells."""
    where: str
    """File and line, for messages."""


def read_list(
    path: Path,
    what: str,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    unnamed: Callable[[int, dict[str, str]], str],
) -> list[ListRow]:
    """Read and check all rows of a list.

    Args:
        path: CSV file.
        what: Start of all messages, such as ``pairs``.
        required: Columns that have a value in every row.
        optional: Columns that may be missing or empty, besides ``name``, which is always optional.
        unnamed: Function of a row's number, from 1 on, and its cells: the name of an unnamed row.

    Returns:
        At least one row.

    Raises:
        InputError: If the file cannot be read; columns are missing, unknown or repeated; there is
            no row; a row lacks a required value or has more cells than columns; or a name cannot
            be used in file names or is repeated.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{what}: cannot read {path}: {error}") from None
    if not set(required) <= set(columns) <= {"name", *required, *optional} or len(set(columns)) < len(columns):
        expected = f"{', '.join(required)} and optionally {', '.join(('name', *optional))}"
        raise InputError(
            f"{what}: expected a CSV with the columns {expected}, found {', '.join(columns) or 'none'} in {path}"
        )
    if not lines:
        raise InputError(f"{what}: {path} has no rows below its header, expected one per line; add them")
    rows: dict[str, ListRow] = {}
    for number, (line_number, line) in enumerate(lines, 1):
        where = f"{what}: line {line_number} of {path}"
        cells = {column: cell for column, cell in line.items() if cell}
        if None in line or not set(required) <= set(cells):
            raise InputError(
                f"{where}: expected {' and '.join(required)}, and at most {len(columns)} cells, one per column"
            )
        name = cells.pop("name", None) or unnamed(number, cells)
        if Path(name).name != name or name.startswith("."):
            raise InputError(f"{where}: '{name}' cannot be used in file names; use letters, digits, - and _")
        if name in rows:
            raise InputError(
                f"{where}: a second row is named '{name}', its results would overwrite the first; use different names"
            )
        rows[name] = ListRow(name, cells, where)
    return list(rows.values())


def pair_name(number: int, cells: dict[str, str]) -> str:
    """Return the name of an unnamed pair: ``pair001``, ``pair002``, ..."""
    return f"pair{number:03d}"
