"""Volumes of structures, as a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from nnunet_anatomix.clinical.sources import Grid
from nnunet_anatomix.clinical.structures import Structures
from pretraining.atomic import written_whole

_MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class StructureVolume:
    """One structure of one case."""

    case: str
    structure: str
    labels: str
    """Values in the prediction, blanks between."""
    voxels: int
    volume_ml: float


def measured_volumes(case: str, labels: np.ndarray, structures: Structures, grid: Grid) -> list[StructureVolume]:
    """Volumes of all structures, also of those that were not found.

    Parameters
    ----------
    case : its name.
    labels : checked labels on the grid.
    structures : what they mean.
    grid : gives the voxel's size.
    """
    voxel_ml = math.prod(grid.spacing_mm) / _MM3_PER_ML
    voxels = structures.voxels(labels)
    return [
        StructureVolume(
            case=case,
            structure=structure.name,
            labels=" ".join(map(str, structure.labels)),
            voxels=voxels[structure.name],
            volume_ml=voxels[structure.name] * voxel_ml,
        )
        for structure in structures.all
    ]


def write_volumes(path: Path, volumes: Iterable[StructureVolume]) -> None:
    """Write the table, whole or not at all."""
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(StructureVolume)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(volume) | {"volume_ml": f"{volume.volume_ml:.6g}"} for volume in volumes)
