"""Headers of the source series for a DICOM SEG, checked against the intake slice by slice.

Messages identify slices by number: paths and tag values may identify a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from nnunet_anatomix.clinical.cases import CaseSource, ChannelSource
from nnunet_anatomix.clinical.delivery.frame_slices import FrameReference, needs_single_headers, single_headers
from nnunet_anatomix.clinical.delivery.valid_tags import drop_invalid_tags
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from pretraining.common.errors import InputError
from pretraining.imaging.rejection import Unusable

_NEEDED = [
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
]
"""Tags that must exist but may be empty (type 2)."""
_KEPT = (*_NEEDED, "SpecificCharacterSet", "ImageType", "Modality")
"""Tags that are kept even if invalid: archives match patient and study by them."""
_TIMES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
"""Tags that must be empty or a valid date or time. Anonymization may write invalid dates such as
19500000.
"""
_TOLERANCE_VOX = 0.1
"""Largest distance of a slice's corner from its position at intake, voxels."""


class SourceHeaders(NamedTuple):
    """Headers of a source series, without pixel data."""

    images: list[Dataset]
    """One header per slice, in the order of the grid, or that of a single multi-frame file."""
    positions_mm: list[np.ndarray]
    """Position of the first voxel of each slice (LPS)."""
    frames: tuple[int, ...] = ()
    """Frame numbers of a multi-frame file, from 1, in the order of the grid; otherwise empty."""
    generated_uids: tuple[str, ...] = ()
    """Keywords of UIDs missing in the source and generated from its headers, always the same."""
    placements: tuple[SlicePlacement, ...] = ()
    """Position, orientation and spacing of each slice, in the order of the grid."""
    references: Mapping[str, FrameReference] = {}
    """Instance UID of a header → file and frame that it represents; see ``restore_references``."""


class SlicePlacement(NamedTuple):
    """Position, orientation and spacing of one slice."""

    position_mm: np.ndarray
    orientation: np.ndarray
    """(2, 3) unit vectors along rows and along columns."""
    spacing_mm: tuple[float, float]
    """Row spacing, column spacing."""


def read_source_headers(source: CaseSource) -> SourceHeaders:
    """Read the headers of channel 0's DICOM series.

    Raises:
        InputError: If files are missing or unreadable, belong to another series than at intake, or
            do not match the grid.
    """
    channel = source.channels[0]
    files = list(dict.fromkeys(channel.files))
    images = [_read_header(channel, channel.files.index(file)) for file in files]
    frames, references = channel.frames, dict[str, FrameReference]()
    try:
        with quiet_readers():
            _require_same_series(images, channel)
            generated_uids = fill_missing_tags(images)
            uids = [str(header.SOPInstanceUID) for header in images]
            if needs_single_headers(channel, images):
                images, references = single_headers(channel, dict(zip(files, images, strict=True)))
                frames = ()
            places = _slice_placements(images, frames)
            positions_mm = _require_grid(places, (int(images[0].Columns), int(images[0].Rows)), source)
    except InputError:
        raise
    except Unusable as reason:
        raise InputError(f"{reason}; restore the source series, or run intake again") from None
    except Exception as error:  # pydicom converts on access and quotes invalid values
        raise InputError(
            f"the headers of the source are damaged ({type(error).__name__}); restore them, or use --format nifti"
        ) from None
    if len(set(uids)) < len(uids):
        raise InputError(
            f"{len(uids) - len(set(uids)) + 1} slices of the source have the same SOPInstanceUID: "
            "a SEG cannot refer to them; use --format nifti"
        )
    placements = tuple(place for place in places if place is not None)
    return SourceHeaders(images, positions_mm, frames, generated_uids, placements, references)


def _read_header(channel: ChannelSource, number: int) -> Dataset:
    path = channel.paths()[number]
    slice_name = f"slice {number + 1} of {len(channel.files)} of the source series"
    if not path.is_file():
        raise InputError(
            f"{slice_name} is missing; restore the series, use --sources if SRC was moved, or run intake again"
        )
    try:
        with quiet_readers():
            return dcmread(path, stop_before_pixels=True, force=True)  # old archives have no preamble
    except Exception as error:  # pydicom raises many types, whose messages quote values
        raise InputError(
            f"{slice_name} can no longer be read ({type(error).__name__}); restore it, or run intake again"
        ) from None


def _require_same_series(slices: Sequence[Dataset], channel: ChannelSource) -> None:
    for number, header in enumerate(slices, 1):
        found = tuple(str(header.get(keyword) or "") for keyword in ("SeriesInstanceUID", "StudyInstanceUID"))
        if found != (channel.series_uid, channel.study_uid):
            raise InputError(
                f"slice {number} of {len(slices)} of the source belongs to another series or study than at intake; "
                "run intake again"
            )


def _slice_placements(images: Sequence[Dataset], frames: Sequence[int]) -> list[SlicePlacement | None]:
    """Return the placement of each slice or listed frame; None if tags are missing or damaged."""
    if not frames:
        return [_read_placement(image, image, image) for image in images]
    shared = (images[0].get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    per_frame = images[0].PerFrameFunctionalGroupsSequence
    groups = [per_frame[number - 1] if number <= len(per_frame) else Dataset() for number in frames]

    def item(group: Dataset, keyword: str) -> Dataset:
        return (group.get(keyword) or shared.get(keyword) or [Dataset()])[0]

    keywords = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return [_read_placement(*(item(group, keyword) for keyword in keywords)) for group in groups]


def _read_placement(position: Dataset, orientation: Dataset, measures: Dataset) -> SlicePlacement | None:
    try:
        rows_mm, columns_mm = map(float, measures.PixelSpacing)
        axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
        return SlicePlacement(
            np.array(position.ImagePositionPatient, dtype=float).reshape(3), axes, (rows_mm, columns_mm)
        )
    except Exception:  # pydicom converts on access and raises many types
        return None


def _require_grid(
    places: Sequence[SlicePlacement | None], size: tuple[int, int], source: CaseSource
) -> list[np.ndarray]:
    """Return the positions of the slices, mm.

    Raises:
        InputError: Unless voxel [k, j, i] of the grid is row j, column i of slice k; unless tilted
            or unevenly spaced slices are where they were at intake.
    """
    channel, grid = source.channels[0], source.grid
    steps_mm = grid.steps_mm
    origins_mm = channel.positions_mm or [grid.origin_mm + steps_mm @ (0, 0, number) for number in range(grid.size[2])]
    columns, rows = channel.slice_size or grid.size[:2]
    moved = "the geometry of the source series changed since intake; run intake again"
    if len(places) != len(origins_mm) or size != (columns, rows):
        raise InputError(
            f"expected {len(origins_mm)} slices of {columns} x {rows}, "
            f"found {len(places)} of {size[0]} x {size[1]}: {moved}"
        )
    positions_mm = []
    for number, place in enumerate(places):
        if place is None:
            raise InputError(f"slice {number + 1} of {len(places)} has no position, orientation or spacing: {moved}")
        row_spacing_mm, column_spacing_mm = place.spacing_mm
        along_row, along_column = place.orientation
        found_mm = [
            place.position_mm + i * column_spacing_mm * along_row + j * row_spacing_mm * along_column
            for i, j in _corners(size)
        ]
        expected_mm = [origins_mm[number] + steps_mm @ (i, j, 0) for i, j in _corners(size)]
        if not np.abs(np.linalg.solve(steps_mm, np.subtract(found_mm, expected_mm).T)).max() <= _TOLERANCE_VOX:
            raise InputError(f"slice {number + 1} of {len(places)}: {moved}")
        positions_mm.append(place.position_mm)
    return positions_mm


def _corners(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(0, 0), (size[0] - 1, 0), (0, size[1] - 1)]


def fill_missing_tags(slices: Sequence[Dataset]) -> tuple[str, ...]:
    """Add missing tags that DICOM requires, and remove invalid ones.

    Args:
        slices: Headers of one series, changed in place.

    Returns:
        Keywords of the UIDs that were missing and are generated.
    """
    generated_uids = []
    for number, header in enumerate(slices):
        meta = header.file_meta
        for keyword, from_meta in (
            ("SOPClassUID", "MediaStorageSOPClassUID"),
            ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
        ):
            if not header.get(keyword):
                setattr(header, keyword, meta.get(from_meta) or "")
        if not header.SOPClassUID:
            raise InputError("the source has no SOPClassUID: a SEG cannot refer to it; use --format nifti")
        if not header.SOPInstanceUID:
            header.SOPInstanceUID = generate_uid(entropy_srcs=[*_identity(header), str(number)])
            generated_uids.append("SOPInstanceUID")
        for keyword in _NEEDED:
            if header.get(keyword) is None:
                setattr(header, keyword, "")
        if header.PatientSex not in ("M", "F", "O"):
            header.PatientSex = ""
        for keyword, kind in _TIMES.items():
            if not _is_valid(kind, header.get(keyword)):
                setattr(header, keyword, "")
        drop_invalid_tags(header, keep=_KEPT)
    # Derived from the instance UIDs, so that every delivery of a scan generates the same UIDs.
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not slices[0].get(keyword):
            uid = generate_uid(entropy_srcs=[keyword, *(header.SOPInstanceUID for header in slices)])
            generated_uids.append(keyword)
            for header in slices:
                setattr(header, keyword, uid)
    return tuple(dict.fromkeys(generated_uids))


def _is_valid(kind: type, value: object) -> bool:
    try:
        return not value or kind(str(value)) is not None
    except Exception:  # pydicom raises several types
        return False


def _identity(header: Dataset) -> list[str]:
    return [
        str(header.get(keyword) or "")
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "ImagePositionPatient")
    ]
