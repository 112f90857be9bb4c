"""Lists of scans or pairs that users write: CSV with a header, a row each; its paths are relative to its folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pretraining.common.errors import InputError


class ListRow(NamedTuple):
    """One scan or pair."""

    name: str
    """Of no other row, and fit for names of files."""
    cells: dict[str, str]
    """Column -> what is written there; empty cells and the name are left out."""
    where: str
    """Names file and line in messages."""


def read_list(
    path: Path,
    what: str,
    *,
    required: Sequence[str],
    optional: Sequence[str],
    unnamed: Callable[[int, dict[str, str]], str],
) -> list[ListRow]:
    """Read all rows, at least one.

    Args:
        what: Begins all messages.
        required, optional: Columns, without ``name``, which is optional always; required ones have
            something in every row.
        unnamed: Names a row without a name, by its number from 1 on and its cells.

    Raises:
        InputError: For a file that cannot be read, missing, unknown or doubled columns, no row, a
            row that lacks something or has more cells than columns, and for a name that names no
            file or another row too.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{what}: cannot read {path}: {error}") from None
    if not set(required) <= set(columns) <= {"name", *required, *optional} or len(set(columns)) < len(columns):
        raise InputError(
            f"{what}: expected a CSV with the columns {', '.join(required)} and perhaps {', '.join(('name', *optional))}, "
            f"found {', '.join(columns) or 'none'} in {path}"
        )
    if not lines:
        raise InputError(f"{what}: {path} has no rows below its columns")
    rows: dict[str, ListRow] = {}
    for number, (line_number, line) in enumerate(lines, 1):
        where = f"{what}: line {line_number} of {path}"
        cells = {column: cell for column, cell in line.items() if cell}
        if None in line or not set(required) <= set(cells):
            raise InputError(
                f"{where} needs {' and '.join(required)}, and no more cells than the {len(columns)} columns"
            )
        name = cells.pop("name", None) or unnamed(number, cells)
        if Path(name).name != name or name.startswith("."):
            raise InputError(f"{where}: '{name}' becomes a name of files; use letters, digits, - and _")
        if name in rows:
            raise InputError(
                f"{where}: a second row called '{name}', whose results would be in one place; use different names"
            )
        rows[name] = ListRow(name, cells, where)
    return list(rows.values())


def pair_name(number: int, cells: dict[str, str]) -> str:
    """``pair001``, ``pair002``, ..."""
    return f"pair{number:03d}"
