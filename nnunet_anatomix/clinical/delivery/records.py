"""What is delivered, and from which prediction.

``DST/segmentations/CASE.dcm``, ``DST/nifti/CASE.nii.gz``, ``DST/overviews/CASE.png``;
``DST/volumes.csv`` and ``DST/deliver.csv`` for all cases. What a case was made from is noted in
``DST/delivered/CASE.json``, written last: a case that has it is complete.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.clinical.delivery.structures import Structures
from pretraining.common.atomic import write_text
from pretraining.common.fingerprint import file_sha256
from pretraining.common.tables import write_csv, write_records
from pretraining.imaging.grids import Grid

SEGMENTATIONS, NIFTI, OVERVIEWS, DELIVERED = "segmentations", "nifti", "overviews", "delivered"
PLACES = {SEGMENTATIONS: ".dcm", NIFTI: ".nii.gz", OVERVIEWS: ".png"}
"""Folder → suffix of a case's file in it."""
VOLUMES, TABLE = "volumes.csv", "deliver.csv"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """A case that is delivered."""

    case: str
    prediction_sha256: str
    fingerprint: str
    """Changes with all that the files depend on."""
    files: Mapping[str, int]
    """Path below DST → bytes."""
    volumes: tuple[StructureVolume, ...]
    notes: tuple[str, ...] = ()

    def is_complete(self, destination: Path) -> bool:
        """Whether all files are there, in full length."""
        try:
            return all((destination / file).stat().st_size == size for file, size in self.files.items())
        except OSError:
            return False


def read_record(destination: Path, case: str) -> Record | None:
    """None if there is none, or none that can be read."""
    try:
        said: dict[str, Any] = json.loads(_file(destination, case).read_text(encoding="utf-8"))
        if said.pop("format") != _FORMAT:
            return None
        volumes = tuple(StructureVolume(**volume) for volume in said.pop("volumes"))
        return Record(**{**said, "notes": tuple(said["notes"])}, volumes=volumes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(destination: Path, record: Record) -> None:
    """Complete a case."""
    write_text(_file(destination, record.case), json.dumps({"format": _FORMAT, **asdict(record)}, indent=1) + "\n")


def forget(destination: Path, case: str) -> None:
    """Make a case incomplete, before its files are written anew."""
    _file(destination, case).unlink(missing_ok=True)


def withdraw_outdated(destination: Path, case: str, prediction: Path) -> None:
    """Take away what is left of another prediction, or of a delivery that broke off: beside this prediction it would mislead."""
    record = read_record(destination, case)
    if record and prediction.is_file() and record.prediction_sha256 == file_sha256(prediction):
        return
    forget(destination, case)
    for place, suffix in PLACES.items():
        (destination / place / f"{case}{suffix}").unlink(missing_ok=True)


def write_tables(destination: Path, failed: Mapping[str, str]) -> None:
    """Write ``volumes.csv`` and ``deliver.csv``, with every case that was ever delivered here.

    Args:
        destination: DST.
        failed: Case → why it could not be delivered just now.
    """
    paths = sorted((destination / DELIVERED).glob("*.json"), key=lambda path: (len(path.name), path.name))
    records = {path.stem: record for path in paths if (record := read_record(destination, path.stem))}
    write_records(
        destination / VOLUMES, StructureVolume, (volume for record in records.values() for volume in record.volumes)
    )
    rows = {
        case: [case, "delivered", "; ".join(record.notes), " ".join(record.files)] for case, record in records.items()
    }
    for case, why in failed.items():  # with the files of an earlier delivery of the same prediction, if there was one
        rows[case] = [case, "failed", why, " ".join(records[case].files) if case in records else ""]
    write_csv(destination / TABLE, ["case", "status", "notes", "files"], rows.values())


def _file(destination: Path, case: str) -> Path:
    return destination / DELIVERED / f"{case}.json"


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


def measure_volumes(case: str, labels: np.ndarray, structures: Structures, grid: Grid) -> list[StructureVolume]:
    """Volumes of all structures, also of those that were not found.

    Args:
        case: Its name.
        labels: Checked labels on the grid.
        structures: What they mean.
        grid: Gives the voxel's size.
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
