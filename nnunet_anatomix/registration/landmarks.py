"""Landmark files: 3D Slicer's .fcsv, or a plain CSV of points in LPS, mm."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from pretraining.common.errors import InputError


def read_landmarks(path: Path) -> np.ndarray:
    """Read landmarks of a scan.

    Args:
        path: CSV file whose header has the columns x, y and z (among others), in ITK's physical
            space (LPS, mm); or Slicer's ``.fcsv``, whose header states LPS or RAS.

    Returns:
        (N, 3), LPS, mm.

    Raises:
        InputError: If the file cannot be read, or has another format; the message names the line.
    """
    try:
        lines = [
            (number, line)
            for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
            if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}; pass a CSV or .fcsv file of landmarks") from None
    if path.suffix.lower() == ".fcsv":
        lines, columns, signs = _parse_fcsv(path, lines)
    else:
        number, header = lines[0] if lines else (1, "")
        lines, columns, signs = lines[1:], _find_columns(path, number, header), (1, 1, 1)
    if not lines:
        raise InputError(f"{path} holds no landmarks, expected one line of numbers per landmark; add them")
    return np.array([_parse_point(path, number, line, columns) for number, line in lines]) * signs


def _parse_fcsv(
    path: Path, lines: list[tuple[int, str]]
) -> tuple[list[tuple[int, str]], list[int], tuple[int, int, int]]:
    """Return the lines with points, the columns of x, y and z, and the signs that make them LPS."""
    header = {"columns": (0, "id,x,y,z"), "coordinatesystem": (0, "")}
    for number, line in lines:
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            header[key.strip().lower()] = (number, value)
    number, system = header["coordinatesystem"]
    signs = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}.get(system.strip().upper())
    if signs is None:
        where = f"{path}, line {number}:" if number else f"{path} has no line"
        raise InputError(
            f"{where} '# CoordinateSystem = {system.strip()}', expected one with LPS, RAS, 1 or 0; "
            "save it again with Slicer"
        )
    return (
        [(number, line) for number, line in lines if not line.startswith("#")],
        _find_columns(path, *header["columns"]),
        signs,
    )


def _find_columns(path: Path, number: int, header: str) -> list[int]:
    names = [name.strip().lower() for name in next(csv.reader([header]), [])]
    try:
        return [names.index(name) for name in "xyz"]
    except ValueError:
        raise InputError(
            f"{path}, line {number}: expected a header with the columns x,y,z, found {header.strip()[:60]!r}"
        ) from None


def _parse_point(path: Path, number: int, line: str, columns: list[int]) -> list[float]:
    values = next(csv.reader([line]))
    try:
        point = [float(values[column]) for column in columns]
    except (ValueError, IndexError):
        point = [float("nan")]
    if not np.isfinite(point).all():
        expected = ", ".join(str(column + 1) for column in columns)
        raise InputError(
            f"{path}, line {number}: expected numbers in columns {expected} (x, y, z in mm), "
            f"found {line.strip()[:60]!r}"
        )
    return point
