"""CSV list of the scans of a groupwise alignment."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_anatomix.registration.lists import read_list
from pretraining.common.errors import InputError

if TYPE_CHECKING:
    from nnunet_anatomix.registration.atlas.template import AtlasScan

Window = tuple[float, float] | None


def read_atlas_scans(path: Path, clip: Window = None) -> list[AtlasScan]:
    """Read the list of scans.

    Args:
        path: CSV file with the column ``scan`` and optionally ``name``, ``labels``, ``group`` and
            ``clip`` (two numbers, such as ``-450 450``); paths are relative to its folder.
        clip: Intensity range of scans without a clip in the file.

    Returns:
        One entry per row.

    Raises:
        InputError: As in :func:`~nnunet_anatomix.registration.lists.read_list`, or if a clip is
            malformed.
    """
    from nnunet_anatomix.registration.atlas.template import AtlasScan

    optional = [one.name for one in fields(AtlasScan) if one.name not in ("name", "scan")]
    rows = read_list(
        path, "scans", required=("scan",), optional=optional, unnamed=lambda number, cells: _stem(cells["scan"])
    )
    return [
        AtlasScan(
            name=name,
            scan=path.parent / cells["scan"],
            labels=path.parent / cells["labels"] if "labels" in cells else None,
            group=cells.get("group", ""),
            clip=_window(cells["clip"], where) if "clip" in cells else clip,
        )
        for name, cells, where in rows
    ]


def _stem(scan: str) -> str:
    return Path(scan).name.removesuffix(".gz").rsplit(".", 1)[0]


def _window(cell: str, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, cell.split())
    except ValueError:
        raise InputError(f"{where}: expected a clip of two numbers such as -450 450, found '{cell}'") from None
    return low, high
