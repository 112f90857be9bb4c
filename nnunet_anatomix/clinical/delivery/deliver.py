"""Predictions brought back to where their scans came from: DICOM SEG, NIfTI on the source grid, overviews, volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import nnunet_anatomix
from nnunet_anatomix.clinical.cases import SOURCES, CaseSource, image_file, read_source, source_file
from nnunet_anatomix.clinical.delivery.dicom_segmentation import Algorithm, dicom_segmentation
from nnunet_anatomix.clinical.delivery.overview import overview
from nnunet_anatomix.clinical.delivery.records import (
    DELIVERED,
    NIFTI,
    OVERVIEWS,
    PLACES,
    SEGMENTATIONS,
    TABLE,
    Record,
    forget,
    measure_volumes,
    read_record,
    withdraw_outdated,
    write_record,
    write_tables,
)
from nnunet_anatomix.clinical.delivery.source_grid import on_source_grid
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders, read_source_headers
from nnunet_anatomix.clinical.delivery.structures import Structures, checked_labels
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.channel_words import modalities_in
from pretraining.common.atomic import atomic_write
from pretraining.common.batch import run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_sha256, fingerprint
from pretraining.common.lock import hold_lock
from pretraining.common.outputs import try_folder
from pretraining.imaging.grids import image_on
from pretraining.imaging.label_files import is_label_file, stem
from pretraining.imaging.scans import read_image
from pretraining.imaging.writing import save_image

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

Format = Literal["dicom", "nifti", "both"]

_NO_SEG = "the source is no DICOM: NIfTI in place of a SEG"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What all cases share."""

    intake: Path
    destination: Path
    structures: Structures
    algorithm: Algorithm = field(default_factory=Algorithm)
    format: Format = "both"
    overview: bool = True

    def fingerprint(self, prediction_sha256: str, source: Path) -> str:
        """Changes whenever a case would have to be delivered anew."""
        said = [
            asdict(self.structures),
            asdict(self.algorithm),
            self.format,
            self.overview,
            nnunet_anatomix.__version__,
        ]
        return fingerprint([said, prediction_sha256, file_sha256(source)], length=64)


def deliver(predictions: Path, delivery: Delivery) -> int:
    """Deliver every prediction of a folder.

    Args:
        predictions: Folder that nnUNetv2_predict filled from ``delivery.intake / "images"``.
        delivery: Where from, where to and how.

    Returns:
        How many cases were delivered now; the others were there already, unchanged.

    Raises:
        InputError: If there are no predictions, or the destination lies where nothing may be
            written.
        CommandFailed: After all others, if some cases failed; why is in ``deliver.csv`` too.
        InUse: If another process writes into the destination.
        Interrupted: As soon as this process is asked to stop; the same call resumes with the case
            in hand.
    """
    files = _predicted(predictions)
    _require_apart(predictions, delivery)
    try_folder(delivery.destination, "DST")
    if waiting := [path.stem for path in sorted((delivery.intake / SOURCES).glob("*.json")) if path.stem not in files]:
        log.info("%d cases of the intake have no prediction: %s", len(waiting), _some(waiting))
    failed: dict[str, str] = {}

    def work(case: str) -> None:
        log.info("%s: %s", case, _said(_delivered(case, files[case], delivery)))

    def on_failure(case: str, why: str) -> None:
        failed[case] = why
        withdraw_outdated(delivery.destination, case, files[case])

    with hold_lock(delivery.destination):
        try:
            outcome = run_batch(
                {case: case for case in files},
                work,
                noun="case",
                is_done=lambda case: _is_delivered(case, files[case], delivery),
                on_failure=on_failure,
            )
        finally:
            write_tables(delivery.destination, failed)
    outcome.require_all("cases", see=delivery.destination / TABLE)
    return outcome.done


def _predicted(predictions: Path) -> dict[str, Path]:
    """Case → file."""
    if not predictions.is_dir():
        raise InputError(f"no folder {predictions}; name the one that nnUNetv2_predict wrote into (-o)")
    files: dict[str, Path] = {}
    for path in sorted(predictions.iterdir(), key=lambda path: (len(path.name), path.name)):
        if is_label_file(path.name) and files.setdefault(stem(path.name), path) != path:
            raise InputError(
                f"{path.name} and {files[stem(path.name)].name} in {predictions} are of one case; keep one of them"
            )
    if not files:
        raise InputError(f"no predictions in {predictions}, expected CASE.nii.gz as nnUNetv2_predict writes them")
    return files


def _require_apart(predictions: Path, delivery: Delivery) -> None:
    """Nothing may be written where predictions, intake or sources lie."""
    sources = delivery.intake / SOURCES
    if not sources.is_dir():
        raise InputError(
            f"{delivery.intake} is no folder that nnunet-anatomix intake wrote: it has no {SOURCES}; name it with --intake"
        )
    roots = {channel.root for path in sources.glob("*.json") for channel in _readable(path)}
    others = {
        "the predictions": predictions,
        "the intake": delivery.intake,
        **{f"source folder {n}": Path(root) for n, root in enumerate(sorted(roots), 1)},
    }
    written = [delivery.destination.resolve() / place for place in (*PLACES, DELIVERED)]
    for role, other in others.items():
        other = other.resolve()
        if written[0].parent.is_relative_to(other) or any(other.is_relative_to(place) for place in written):
            raise InputError(
                f"{delivery.destination} lies in {role}, where nothing may be written; name another folder"
            )


def _readable(path: Path) -> Iterable:
    try:
        return read_source(path).channels
    except InputError:  # fails its case later
        return ()


def _is_delivered(case: str, prediction: Path, delivery: Delivery) -> bool:
    """Whether all files of a case are there, from this prediction and with these settings."""
    link = source_file(delivery.intake, case)
    record = read_record(delivery.destination, case)
    if record is None or not link.is_file() or not record.is_complete(delivery.destination):
        return False
    return record.fingerprint == delivery.fingerprint(file_sha256(prediction), link)


def _delivered(case: str, prediction: Path, delivery: Delivery) -> Record:
    """Deliver a case; its record."""
    link = source_file(delivery.intake, case)
    if not link.is_file():
        raise InputError(
            f"intake made no case of this name: there is no {link}; was it predicted from {delivery.intake / 'images'}?"
        )
    source, prediction_sha256 = read_source(link), file_sha256(prediction)
    labels = checked_labels(on_source_grid(read_image(prediction, "prediction"), source.grid), delivery.structures)
    volumes = measure_volumes(case, labels, delivery.structures, source.grid)
    fingerprint = delivery.fingerprint(prediction_sha256, link)
    record = Record(
        case=case, prediction_sha256=prediction_sha256, fingerprint=fingerprint, files={}, volumes=tuple(volumes)
    )
    return _written(record, labels, source, delivery)


def _written(record: Record, labels: np.ndarray, source: CaseSource, delivery: Delivery) -> Record:
    """Make all files of a case, then write them, then the record that completes it."""
    case, destination, is_dicom = record.case, delivery.destination, source.channels[0].kind == "dicom"
    notes = [] if labels.any() else ["no structure found"]
    writers: dict[str, Callable[[Path], None]] = {}
    if delivery.format != "nifti" and is_dicom:
        headers = read_source_headers(source)
        segmentation = _segmentation(headers, labels, delivery)
        writers[SEGMENTATIONS] = lambda path: _save(segmentation, path)
        if headers.invented:
            notes.append(
                f"the source has no {', '.join(headers.invented)}: made up for the SEG, an archive may not find its scan by them"
            )
    elif delivery.format != "nifti":
        notes.append(_NO_SEG)
    if delivery.format != "dicom" or not is_dicom:
        image = image_on(source.grid, labels)
        writers[NIFTI] = lambda path: save_image(path, image)
    if delivery.overview:
        figure = _overview(record, labels, source, delivery)
        writers[OVERVIEWS] = lambda path: figure.savefig(path, format="png")
    # From here on the case is incomplete until its record is there again.
    forget(destination, case)
    files = {}
    for place, suffix in PLACES.items():
        path = destination / place / f"{case}{suffix}"
        if place not in writers:
            path.unlink(missing_ok=True)
            continue
        with quiet_readers(), atomic_write(path) as partial:
            writers[place](partial)
        files[path.relative_to(destination).as_posix()] = path.stat().st_size
    record = replace(record, files=files, notes=tuple(notes))
    write_record(destination, record)
    return record


def _segmentation(headers: SourceHeaders, labels: np.ndarray, delivery: Delivery) -> Segmentation:
    with _unquoted(), quiet_readers():
        return dicom_segmentation(headers, labels, delivery.structures, delivery.algorithm)


def _save(segmentation: Segmentation, path: Path) -> None:
    with _unquoted():
        segmentation.save_as(path)


@contextmanager
def _unquoted() -> Iterator[None]:
    """One message for all that pydicom and highdicom refuse, since theirs quote tags."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"the headers of the source make no valid SEG ({type(error).__name__}); use --format nifti, or mend its patient and study tags"
        ) from None


def _overview(record: Record, labels: np.ndarray, source: CaseSource, delivery: Delivery) -> Figure:
    path = image_file(delivery.intake, record.case, 0, source.file_ending)
    if not path.is_file():
        raise InputError(f"{path} is gone, which the overview shows; run intake again, or use --no-overview")
    channel = source.channels[0].name
    return overview(
        image_on(source.grid, on_source_grid(read_image(path, "scan"), source.grid)),
        image_on(source.grid, labels),
        delivery.structures,
        [volume.volume_ml for volume in record.volumes],
        title=f"{record.case}, {channel}" if channel else record.case,
        is_ct="CT" in modalities_in(channel),
    )


def _said(record: Record) -> str:
    found = sum(volume.voxels > 0 for volume in record.volumes)
    written = [
        name
        for name, place in (("SEG", SEGMENTATIONS), ("NIfTI", NIFTI), ("overview", OVERVIEWS))
        if _has(record, place)
    ]
    return "; ".join([f"{found} of {len(record.volumes)} structures, {', '.join(written)}", *record.notes])


def _has(record: Record, place: str) -> bool:
    return any(file.startswith(f"{place}/") for file in record.files)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
