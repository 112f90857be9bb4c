"""Delivery of predictions: DICOM SEG, NIfTI on the source grid, overview pictures and volumes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_anatomix.clinical.cases import SOURCES, CaseSource, read_source, source_file
from nnunet_anatomix.clinical.delivery.case_entries import list_cases
from nnunet_anatomix.clinical.delivery.case_files import build_case_files
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm
from nnunet_anatomix.clinical.delivery.records import (
    CAPTURES,
    DELIVERED,
    NIFTI,
    OVERVIEWS,
    REPORTS,
    RTSTRUCTS,
    SEGMENTATIONS,
    SUFFIXES,
    TABLE,
    Record,
    measure_volumes,
    read_record,
    remove_record,
    withdraw_outdated,
    write_record,
    write_tables,
)
from nnunet_anatomix.clinical.delivery.source_grid import reorder_to_grid
from nnunet_anatomix.clinical.delivery.structures import Structures, check_labels
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.manifest import MANIFESTS, ModelFiles, format_time, record_run
from pretraining.common.atomic import atomic_write
from pretraining.common.batch import run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_sha256, fingerprint
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.common.versions import VERSION
from pretraining.imaging.label_files import is_label_file, stem
from pretraining.imaging.scans import read_image

log = logging.getLogger(__name__)

Format = Literal["dicom", "nifti", "both"]

_SHORT_NAMES = {
    SEGMENTATIONS: "SEG",
    RTSTRUCTS: "RTSTRUCT",
    REPORTS: "report",
    NIFTI: "NIfTI",
    OVERVIEWS: "overview",
    CAPTURES: "secondary capture",
}
"""Folder → name of its files in the log."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Settings of a delivery, common to all cases."""

    intake: Path
    """Folder that ``nnunet-anatomix intake`` wrote."""
    destination: Path
    """Folder to write, DST."""
    structures: Structures
    """Names and labels of the structures."""
    algorithm: Algorithm = field(default_factory=Algorithm)
    """Description of the model for DICOM SEG."""
    format: Format = "both"
    """Formats to write; a source that is not DICOM always gets NIfTI."""
    overview: bool = True
    """True to write an overview picture per case."""
    sources: Path | None = None
    """Folder that SRC was moved to since intake. Default: where it was."""
    dicom: DicomOptions = field(default_factory=DicomOptions)
    """DICOM objects to write."""
    model: ModelFiles = field(default_factory=ModelFiles)
    """Identity of the model, for the run manifest."""

    def __post_init__(self) -> None:
        if self.format == "nifti" and self.dicom.wants_more_than_segmentation:
            raise InputError(
                "--format nifti writes no DICOM, but RTSTRUCT, report or secondary capture are asked for; "
                "use --format both"
            )
        if self.dicom.segmentation_type == "labelmap" and self.structures.overlap:
            raise InputError(
                "a label map holds one structure per voxel, but regions of this model overlap; "
                "use --segmentation-type binary"
            )

    def describe_settings(self) -> dict[str, Any]:
        """Return the settings that a run manifest lists: JSON types."""
        return {"format": self.format, "overview": self.overview, **asdict(self.dicom)}

    def fingerprint(self, prediction_sha256: str, source: Path) -> str:
        """Hash everything that the files of a case depend on.

        Args:
            prediction_sha256: SHA-256 of the prediction.
            source: Path of the source record.
        """
        settings = [
            asdict(self.structures),
            asdict(self.algorithm),
            self.describe_settings(),
            VERSION,
        ]
        return fingerprint([settings, prediction_sha256, file_sha256(source)], length=64)


def deliver(predictions: Path, delivery: Delivery) -> int:
    """Deliver every prediction of a folder.

    Args:
        predictions: Folder that nnUNetv2_predict wrote from ``delivery.intake / "images"``.
        delivery: Settings.

    Returns:
        Number of cases delivered by this call; unchanged cases are skipped.

    Raises:
        InputError: If there are no predictions, or the destination is inside a folder that must not
            be changed.
        CommandFailed: If some cases failed, after all others are delivered. ``deliver.csv`` gives
            the reasons.
        InUse: If another process writes into the destination.
        Interrupted: If the process receives a signal to stop; the same call resumes with the
            current case.
    """
    files = _find_predictions(predictions)
    _require_disjoint(predictions, delivery)
    try_folder(delivery.destination, "DST")
    if missing := [path.stem for path in sorted((delivery.intake / SOURCES).glob("*.json")) if path.stem not in files]:
        log.info("%d cases of the intake have no prediction: %s", len(missing), _abbreviate(missing))
    failed: dict[str, str] = {}
    done: set[str] = set()
    unchanged: set[str] = set()

    def is_done(case: str) -> bool:
        if _is_delivered(case, files[case], delivery):
            unchanged.add(case)
        return case in unchanged

    def work(case: str) -> None:
        log.info("%s: %s", case, _summarize(_deliver_case(case, files[case], delivery)))
        done.add(case)

    def on_failure(case: str, why: str) -> None:
        failed[case] = why
        withdraw_outdated(delivery.destination, case, files[case])

    with (
        hold_lock(delivery.destination),
        record_run(
            delivery.destination, "deliver", model=delivery.model, settings=delivery.describe_settings()
        ) as manifest,
    ):
        try:
            outcome = run_batch(
                {case: case for case in files},
                work,
                noun="case",
                is_done=is_done,
                on_failure=on_failure,
            )
        finally:
            write_tables(delivery.destination, failed)
            manifest.cases = list_cases(
                files, delivery.intake, delivery.destination, done=done, unchanged=unchanged, failed=failed
            )
        outcome.require_all("cases", see=delivery.destination / TABLE)
    return outcome.done


def _find_predictions(predictions: Path) -> dict[str, Path]:
    """Return the predictions: case → file."""
    if not predictions.is_dir():
        raise InputError(f"no folder {predictions}; expected the output folder of nnUNetv2_predict (-o)")
    files: dict[str, Path] = {}
    for path in sorted(predictions.iterdir(), key=lambda path: (len(path.name), path.name)):
        if is_label_file(path.name) and files.setdefault(stem(path.name), path) != path:
            raise InputError(
                f"{path.name} and {files[stem(path.name)].name} in {predictions} belong to one case; keep one of them"
            )
    if not files:
        raise InputError(f"no predictions in {predictions}; expected files CASE.nii.gz of nnUNetv2_predict")
    return files


def _require_disjoint(predictions: Path, delivery: Delivery) -> None:
    """Check that DST is outside of the predictions, the intake and the sources."""
    sources = delivery.intake / SOURCES
    if not sources.is_dir():
        raise InputError(
            f"{delivery.intake} was not written by nnunet-anatomix intake: it has no folder {SOURCES}; "
            "use the output folder of intake for --intake"
        )
    roots = {channel.root for path in sources.glob("*.json") for channel in _read_channels(path)}
    if delivery.sources is not None:
        roots.add(str(delivery.sources))
        if not delivery.sources.is_dir():
            raise InputError(f"--sources: expected the folder that SRC was moved to, no folder {delivery.sources}")
    others = {
        "the predictions": predictions,
        "the intake": delivery.intake,
        **{f"source folder {n}": Path(root) for n, root in enumerate(sorted(roots), 1)},
    }
    written = [delivery.destination.resolve() / folder for folder in (*SUFFIXES, DELIVERED, MANIFESTS)]
    for role, other in others.items():
        other = other.resolve()
        if written[0].parent.is_relative_to(other) or any(other.is_relative_to(folder) for folder in written):
            raise InputError(f"{delivery.destination} is inside {role}, which must not be changed; choose another DST")


def _read_channels(path: Path) -> Iterable:
    try:
        return read_source(path).channels
    except InputError:  # reported when the case is delivered
        return ()


def _is_delivered(case: str, prediction: Path, delivery: Delivery) -> bool:
    """Return whether all files of a case exist, made from this prediction with these settings."""
    source_record = source_file(delivery.intake, case)
    record = read_record(delivery.destination, case)
    if record is None or not source_record.is_file() or not record.is_complete(delivery.destination):
        return False
    return record.fingerprint == delivery.fingerprint(file_sha256(prediction), source_record)


def _deliver_case(case: str, prediction: Path, delivery: Delivery) -> Record:
    """Deliver a case and return its record."""
    source_record = source_file(delivery.intake, case)
    if not source_record.is_file():
        raise InputError(
            f"intake has no case of this name: there is no {source_record}; "
            f"expected predictions of {delivery.intake / 'images'}"
        )
    source, prediction_sha256 = read_source(source_record).moved_to(delivery.sources), file_sha256(prediction)
    labels = check_labels(reorder_to_grid(read_image(prediction, "prediction"), source.grid), delivery.structures)
    volumes = measure_volumes(case, labels, delivery.structures, source.grid)
    fingerprint = delivery.fingerprint(prediction_sha256, source_record)
    record = Record(
        case=case, prediction_sha256=prediction_sha256, fingerprint=fingerprint, files={}, volumes=tuple(volumes)
    )
    return _write_case(record, labels, source, delivery)


def _write_case(record: Record, labels: np.ndarray, source: CaseSource, delivery: Delivery) -> Record:
    """Create all files of a case, write them, and then write its record."""
    case, destination = record.case, delivery.destination
    built = build_case_files(case, labels, source, list(record.volumes), delivery)
    # Without a record the case counts as incomplete while its files are replaced.
    remove_record(destination, case)
    files, instance_uids = {}, {}
    for folder, suffix in SUFFIXES.items():
        path = destination / folder / f"{case}{suffix}"
        if folder not in built.writers:
            path.unlink(missing_ok=True)
            continue
        with quiet_readers(), atomic_write(path) as partial:
            built.writers[folder](partial)
        name = path.relative_to(destination).as_posix()
        files[name] = path.stat().st_size
        if folder in built.instance_uids:
            instance_uids[name] = built.instance_uids[folder]
    record = replace(
        record, files=files, notes=tuple(built.notes), instance_uids=instance_uids, delivered_at=format_time()
    )
    write_record(destination, record)
    return record


def _summarize(record: Record) -> str:
    """Return the log line of a delivered case."""
    found = sum(volume.voxels > 0 for volume in record.volumes)
    written = [
        name for folder, name in _SHORT_NAMES.items() if any(file.startswith(f"{folder}/") for file in record.files)
    ]
    return "; ".join([f"{found} of {len(record.volumes)} structures, {', '.join(written)}", *record.notes])


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
