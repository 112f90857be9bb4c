"""Files of one delivered case, built in memory before the first of them is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_anatomix.clinical.cases import CaseSource, image_file
from nnunet_anatomix.clinical.delivery.dicom_segmentation import build_segmentation
from nnunet_anatomix.clinical.delivery.frame_slices import restore_references
from nnunet_anatomix.clinical.delivery.overview import render_overview
from nnunet_anatomix.clinical.delivery.records import (
    CAPTURES,
    NIFTI,
    OVERVIEWS,
    REPORTS,
    RTSTRUCTS,
    SEGMENTATIONS,
    StructureVolume,
)
from nnunet_anatomix.clinical.delivery.scan_planes import open_planes, planes_of
from nnunet_anatomix.clinical.delivery.secondary_capture import build_secondary_capture
from nnunet_anatomix.clinical.delivery.source_grid import place_on_slices, reorder_to_grid
from nnunet_anatomix.clinical.delivery.source_headers import SourceHeaders, read_source_headers
from nnunet_anatomix.clinical.delivery.structure_set import build_structure_set
from nnunet_anatomix.clinical.delivery.volume_report import build_volume_report
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.channel_words import modalities_in
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_on, same_grid
from pretraining.imaging.scans import read_image
from pretraining.imaging.writing import save_image

if TYPE_CHECKING:
    from pydicom import Dataset

    from nnunet_anatomix.clinical.delivery.deliver import Delivery


@dataclass
class CaseFiles:
    """Files to write for a case."""

    writers: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    """Folder → function that writes the file of this case to a path."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the record."""
    instance_uids: dict[str, str] = field(default_factory=dict)
    """Folder → SOPInstanceUID of the DICOM object."""

    def add_dicom(self, folder: str, dataset: Dataset) -> None:
        """Add a DICOM object, one per folder."""
        self.writers[folder] = lambda path: _save_dicom(dataset, path)
        self.instance_uids[folder] = str(dataset.SOPInstanceUID)


def build_case_files(
    case: str, labels: np.ndarray, source: CaseSource, volumes: list[StructureVolume], delivery: Delivery
) -> CaseFiles:
    """Build all files of a case that the settings ask for.

    Args:
        case: Name of the case.
        labels: (Z, Y, X) checked labels on the grid of the source.
        source: Source record of the case.
        volumes: Volume of each structure.
        delivery: Settings.

    Raises:
        InputError: If the source series or the scan of the overview is missing or changed, or if no
            valid DICOM object can be made from the headers of the source.
    """
    result, is_dicom = CaseFiles(notes=[] if labels.any() else ["no structure found"]), _is_dicom(source)
    overview = b""
    if delivery.overview or (delivery.dicom.secondary_capture and is_dicom):
        overview = _render_overview(case, labels, source, volumes, delivery)
    if delivery.format != "nifti" and is_dicom:
        on_slices = place_on_slices(labels, source)
        _add_dicom_objects(result, read_source_headers(source), on_slices, volumes, overview, delivery)
    elif delivery.format != "nifti":
        also = " and other DICOM objects" if delivery.dicom.wants_more_than_segmentation else ""
        result.notes.append(f"the source is not DICOM: NIfTI instead of DICOM SEG{also}")
    if delivery.format != "dicom" or not is_dicom:
        image = image_on(source.grid, labels)
        result.writers[NIFTI] = lambda path: save_image(path, image)
    if delivery.overview:
        result.writers[OVERVIEWS] = lambda path: path.write_bytes(overview)
    return result


def _is_dicom(source: CaseSource) -> bool:
    return source.channels[0].kind == "dicom"


def _add_dicom_objects(
    result: CaseFiles,
    headers: SourceHeaders,
    labels: np.ndarray,
    volumes: list[StructureVolume],
    overview: bytes,
    delivery: Delivery,
) -> None:
    options, structures, model = delivery.dicom, delivery.structures, delivery.algorithm.model
    with _hide_tag_values(), quiet_readers():
        segmentation = build_segmentation(headers, labels, structures, delivery.algorithm, options)
        restore_references(segmentation, headers.references)
        result.add_dicom(SEGMENTATIONS, segmentation)
        if options.rtstruct:
            result.add_dicom(RTSTRUCTS, build_structure_set(headers, labels, structures, model))
        if options.report:
            volumes_ml = [volume.volume_ml for volume in volumes]
            result.add_dicom(REPORTS, build_volume_report(headers, segmentation, structures, volumes_ml, model))
        if options.secondary_capture:
            result.add_dicom(CAPTURES, build_secondary_capture(headers, _decode_png(overview), model))
    if headers.generated_uids:
        result.notes.append(
            f"the source has no {', '.join(headers.generated_uids)}: generated for the SEG, "
            "an archive may not match it to the scan"
        )


def _decode_png(png: bytes) -> np.ndarray:
    """Return the colours of a picture: (H, W, 3) uint8."""
    from matplotlib.image import imread

    return np.rint(255 * imread(BytesIO(png), format="png")[..., :3]).astype(np.uint8)


def _save_dicom(dataset: Dataset, path: Path) -> None:
    with _hide_tag_values(), quiet_readers():
        dataset.save_as(path, enforce_file_format=True)


@contextmanager
def _hide_tag_values() -> Iterator[None]:
    """Replace the errors of pydicom and highdicom, which quote tag values."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"cannot make a valid DICOM object from the headers of the source ({type(error).__name__}); "
            "use --format nifti, or correct its patient and study tags"
        ) from None


def _render_overview(
    case: str, labels: np.ndarray, source: CaseSource, volumes: list[StructureVolume], delivery: Delivery
) -> bytes:
    """Return the overview picture as PNG."""
    path = image_file(delivery.intake, case, 0, source.file_ending)
    if not path.is_file():
        raise InputError(f"the overview needs {path}, which is missing; run intake again, or use --no-overview")
    channel, scan = source.channels[0].name, open_planes(path)
    if not same_grid(scan.grid, source.grid):
        scan = planes_of(image_on(source.grid, reorder_to_grid(read_image(path, "scan"), source.grid)))
    figure = render_overview(
        scan,
        image_on(source.grid, labels),
        delivery.structures,
        [volume.volume_ml for volume in volumes],
        title=f"{case}, {channel}" if channel else case,
        is_ct="CT" in modalities_in(channel),
    )
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
