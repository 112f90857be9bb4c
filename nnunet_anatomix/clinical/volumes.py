"""Volumes of structures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nnunet_anatomix.clinical.structures import Structures
from pretraining.imaging.grids import Grid

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
