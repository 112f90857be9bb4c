"""Files of a delivery and the records of delivered cases.

Per case: ``DST/segmentations/CASE.dcm``, ``DST/nifti/CASE.nii.gz``, ``DST/overviews/CASE.png``, and
on request ``CASE.dcm`` in ``rtstructs``, ``reports`` and ``secondary_captures``. For all cases:
``DST/volumes.csv`` and ``DST/deliver.csv``. The record ``DST/delivered/CASE.json`` is written last:
a case that has one is complete.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.clinical.delivery.structures import Structures
from pretraining.common.atomic import write_text
from pretraining.common.fingerprint import file_sha256
from pretraining.common.tables import write_csv, write_records
from pretraining.imaging.grids import Grid

SEGMENTATIONS, NIFTI, OVERVIEWS, DELIVERED = "segmentations", "nifti", "overviews", "delivered"
RTSTRUCTS, REPORTS, CAPTURES = "rtstructs", "reports", "secondary_captures"
SUFFIXES = {
    SEGMENTATIONS: ".dcm",
    NIFTI: ".nii.gz",
    OVERVIEWS: ".png",
    RTSTRUCTS: ".dcm",
    REPORTS: ".dcm",
    CAPTURES: ".dcm",
}
"""Folder → suffix of its files, one file per case."""
VOLUMES, TABLE = "volumes.csv", "deliver.csv"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of a delivered case."""

    case: str
    prediction_sha256: str
    fingerprint: str
    """Hash of everything that the files depend on."""
    files: Mapping[str, int]
    """Path relative to DST → size, bytes."""
    volumes: tuple[StructureVolume, ...]
    notes: tuple[str, ...] = ()
    """Remarks, such as that no structure was found."""
    instance_uids: Mapping[str, str] = field(default_factory=dict)
    """Path relative to DST → SOPInstanceUID, of DICOM objects."""
    delivered_at: str = ""
    """Time when the last file was written: ISO 8601, UTC."""

    def is_complete(self, destination: Path) -> bool:
        """Return whether all files exist with their recorded sizes."""
        try:
            return all((destination / file).stat().st_size == size for file, size in self.files.items())
        except OSError:
            return False


def read_record(destination: Path, case: str) -> Record | None:
    """Read the record of a case; return None if it is missing or invalid."""
    try:
        stored: dict[str, Any] = json.loads(_record_file(destination, case).read_text(encoding="utf-8"))
        if stored.pop("format") != _FORMAT:
            return None
        volumes = tuple(StructureVolume(**volume) for volume in stored.pop("volumes"))
        return Record(**{**stored, "notes": tuple(stored["notes"])}, volumes=volumes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(destination: Path, record: Record) -> None:
    """Write the record of a case atomically, which marks it as complete."""
    write_text(
        _record_file(destination, record.case), json.dumps({"format": _FORMAT, **asdict(record)}, indent=1) + "\n"
    )


def remove_record(destination: Path, case: str) -> None:
    """Remove the record of a case, which marks it as incomplete."""
    _record_file(destination, case).unlink(missing_ok=True)


def withdraw_outdated(destination: Path, case: str, prediction: Path) -> None:
    """Remove files made from another prediction or by an incomplete delivery."""
    record = read_record(destination, case)
    if record and prediction.is_file() and record.prediction_sha256 == file_sha256(prediction):
        return
    remove_record(destination, case)
    for folder, suffix in SUFFIXES.items():
        (destination / folder / f"{case}{suffix}").unlink(missing_ok=True)


def write_tables(destination: Path, failed: Mapping[str, str]) -> None:
    """Write ``volumes.csv`` and ``deliver.csv`` with all cases delivered into this folder.

    Args:
        destination: Folder of the delivery, DST.
        failed: Case → reason why this run could not deliver it.
    """
    paths = sorted((destination / DELIVERED).glob("*.json"), key=lambda path: (len(path.name), path.name))
    records = {path.stem: record for path in paths if (record := read_record(destination, path.stem))}
    write_records(
        destination / VOLUMES, StructureVolume, (volume for record in records.values() for volume in record.volumes)
    )
    rows = {
        case: [case, "delivered", "; ".join(record.notes), " ".join(record.files)] for case, record in records.items()
    }
    for case, why in failed.items():  # files of an earlier delivery of the same prediction are still valid
        rows[case] = [case, "failed", why, " ".join(records[case].files) if case in records else ""]
    write_csv(destination / TABLE, ["case", "status", "notes", "files"], rows.values())


def _record_file(destination: Path, case: str) -> Path:
    return destination / DELIVERED / f"{case}.json"


_MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class StructureVolume:
    """Volume of one structure in one case; a row of ``volumes.csv``."""

    case: str
    structure: str
    labels: str
    """Label values in the prediction, separated by spaces."""
    voxels: int
    volume_ml: float


def measure_volumes(case: str, labels: np.ndarray, structures: Structures, grid: Grid) -> list[StructureVolume]:
    """Measure the volumes of all structures, including those that are absent.

    Args:
        case: Name of the case.
        labels: (Z, Y, X) checked labels.
        structures: Names and labels of the structures.
        grid: Grid of the labels.
    """
    voxel_ml = math.prod(grid.spacing_mm) / _MM3_PER_ML
    voxels = structures.count_voxels(labels)
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
