"""Files of points: 3D Slicer's ``.mrk.json`` and ``.fcsv``, or CSV in LPS, mm."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_anatomix.registration.markups import parse_markups
from pretraining.common.errors import InputError
from pretraining.common.tables import csv_text

POINT_FILES = (".json", ".fcsv", ".csv")
"""Endings of files of points."""
_SIGNS = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}


@dataclass(frozen=True, kw_only=True)
class PointFile:
    """Points of a file, and the file's text with other points."""

    points_mm: np.ndarray
    """(N, 3), LPS, mm."""
    text_with: Callable[[np.ndarray], str]
    """Function of (N, 3) points in LPS, mm: the file with these, all else unchanged."""


def read_landmarks(path: Path) -> np.ndarray:
    """Read the points of a file, see :func:`read_points`.

    Args:
        path: File of points.

    Returns:
        (N, 3), LPS, mm.

    Raises:
        InputError: As in :func:`read_points`.
    """
    return read_points(path).points_mm


def read_points(path: Path) -> PointFile:
    """Read a file of points.

    Args:
        path: Markups of Slicer (``.mrk.json``, ``.fcsv``), which state LPS or RAS; or CSV with
            commas, semicolons or tabs, in ITK's physical space (LPS, mm), with a header that names
            the columns x, y and z (among others), or three columns without a header. With
            semicolons, decimals may have commas.

    Returns:
        The points, and how to write others in their place.

    Raises:
        InputError: If the file cannot be read, or has another format; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text: {error}; pass a .csv, .fcsv or .mrk.json file of landmarks"
        ) from None
    if path.suffix.lower() == ".json":
        points, text_with = parse_markups(path, text)
        return PointFile(points_mm=points, text_with=text_with)
    table = _Table(path, text)
    return PointFile(points_mm=table.points_mm(), text_with=table.text_with)


class _Table:
    """Lines with points, and lines between them."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._lines, self._signs, self._delimiter = path, text.splitlines(), (1, 1, 1), ","
        filled = [number for number, line in enumerate(self._lines, 1) if line.strip()]
        if path.suffix.lower() == ".fcsv":
            self._columns, self._signs = self._parse_fcsv_header(filled)
            self._numbers = [number for number in filled if not self._lines[number - 1].startswith("#")]
            return
        first = filled[0] if filled else 1
        header = self._lines[first - 1] if filled else ""
        self._delimiter = next((delimiter for delimiter in ";\t" if header.count(delimiter) > 1), ",")
        if self._is_headerless(header):
            self._numbers, self._columns = filled, [0, 1, 2]
        else:
            self._numbers, self._columns = filled[1:], self._find_columns(first, header)

    def points_mm(self) -> np.ndarray:
        """Return (N, 3) points, LPS, mm."""
        if not self._numbers:
            raise InputError(f"{self._path} holds no landmarks, expected one line of numbers per landmark; add them")
        return np.array([self._parse_point(number) for number in self._numbers]) * self._signs

    def text_with(self, points_mm: np.ndarray) -> str:
        """Return the table with other points in their columns."""
        lines = list(self._lines)
        for number, point in zip(self._numbers, np.asarray(points_mm) * self._signs, strict=True):
            cells = self._cells(lines[number - 1])
            for column, value in zip(self._columns, point, strict=True):
                has_comma = self._delimiter == ";" and "," in "".join(cells[each] for each in self._columns)
                cells[column] = f"{value:.6f}".replace(".", "," if has_comma else ".")
            lines[number - 1] = csv_text((), [cells], delimiter=self._delimiter).rstrip("\n")
        return "\n".join(lines) + "\n"

    def _cells(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self._delimiter), [])

    def _is_headerless(self, line: str) -> bool:
        cells = self._cells(line)
        return len(cells) == 3 and all(np.isfinite(self._number(cell)) for cell in cells)

    def _number(self, cell: str) -> float:
        try:
            return float(cell.replace(",", ".") if self._delimiter == ";" else cell)
        except ValueError:
            return float("nan")

    def _parse_point(self, number: int) -> list[float]:
        line = self._lines[number - 1]
        cells = self._cells(line)
        point = [self._number(cells[column]) if column < len(cells) else float("nan") for column in self._columns]
        if not np.isfinite(point).all():
            expected = ", ".join(str(column + 1) for column in self._columns)
            raise InputError(
                f"{self._path}, line {number}: expected numbers in columns {expected} (x, y, z in mm), "
                f"found {line.strip()[:60]!r}; correct that line"
            )
        return point

    def _parse_fcsv_header(self, filled: list[int]) -> tuple[list[int], tuple[int, int, int]]:
        """Return the columns of x, y and z, and the signs that make them LPS."""
        header = {"columns": (0, "id,x,y,z"), "coordinatesystem": (0, "")}
        for number in filled:
            if (line := self._lines[number - 1]).startswith("#"):
                key, _, value = line[1:].partition("=")
                header[key.strip().lower()] = (number, value)
        number, system = header["coordinatesystem"]
        signs = _SIGNS.get(system.strip().upper())
        if signs is None:
            where = f"{self._path}, line {number}:" if number else f"{self._path} has no line"
            raise InputError(
                f"{where} '# CoordinateSystem = {system.strip()}', expected one with LPS, RAS, 1 or 0; "
                "save it again with Slicer"
            )
        return self._find_columns(*header["columns"]), signs

    def _find_columns(self, number: int, header: str) -> list[int]:
        names = [name.strip().lower() for name in self._cells(header)]
        try:
            return [names.index(name) for name in "xyz"]
        except ValueError:
            raise InputError(
                f"{self._path}, line {number}: expected a header with the columns x,y,z, or three numbers, "
                f"found {header.strip()[:60]!r}; add the header"
            ) from None
