"""Headers of the source series, read again for a DICOM SEG: still the same series, slice by slice where intake found it.

Messages tell slices by number: paths and values of tags may name a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from nnunet_anatomix.clinical.cases import CaseSource, ChannelSource
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid

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
"""May be empty but must be there (type 2)."""
_TIMES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
"""What must be a date or time, or empty: anonymization writes 19500000, of which no SEG can be
made.
"""
_TOLERANCE_VOX = 0.1
"""Greatest distance of a slice's corner from where intake found it; far below a slice, far above
rounding.
"""


class SourceHeaders(NamedTuple):
    """A source series without its pixels."""

    images: list[Dataset]
    """A file a slice, in the order of the grid's slices; or the one multi-frame file."""
    positions_mm: list[np.ndarray]
    """Of the first voxel of each slice."""
    frames: tuple[int, ...] = ()
    """Of the multi-frame file, from 1, in the order of the grid's slices; else empty."""
    invented: tuple[str, ...] = ()
    """UIDs that the source lacks and that were made up; the same for every reading."""


class _Place(NamedTuple):
    """Where one slice lies, by its tags."""

    position_mm: np.ndarray
    orientation: np.ndarray
    """(2, 3): along rows, along columns."""
    spacing_mm: tuple[float, float]
    """Of rows, of columns."""


def read_source_headers(source: CaseSource) -> SourceHeaders:
    """Read the headers of channel 0's DICOM series.

    Raises:
        InputError: If files are gone or unreadable, belong to another series than at intake, or do
            not lie on the grid.
    """
    channel = source.channels[0]
    images = [_read(channel, number) for number in range(len(channel.files))]
    try:
        with quiet_readers():
            _require_same_series(images, channel)
            places = _places(images, channel.frames)
            positions_mm = _require_grid(places, (int(images[0].Columns), int(images[0].Rows)), source.grid)
            invented = _complete(images)
            uids = [str(header.SOPInstanceUID) for header in images]
    except InputError:
        raise
    except Exception as error:  # pydicom converts on access, fails in many ways, and quotes what it cannot convert
        raise InputError(
            f"the headers of the source are damaged ({type(error).__name__}); restore them, or use --format nifti"
        ) from None
    if len(set(uids)) < len(uids):
        raise InputError(
            f"{len(uids) - len(set(uids)) + 1} slices of the source share a SOPInstanceUID: a SEG cannot refer to them"
        )
    return SourceHeaders(images, positions_mm, channel.frames, invented)


def _read(channel: ChannelSource, number: int) -> Dataset:
    path = channel.paths()[number]
    slice_name = f"slice {number + 1} of {len(channel.files)} of the source series"
    if not path.is_file():
        raise InputError(f"{slice_name} is gone from where intake found it; put the series back, or run intake again")
    try:
        with quiet_readers():
            return dcmread(path, stop_before_pixels=True, force=True)  # old archives left the preamble out
    except Exception as error:  # pydicom raises many kinds for damaged files, and quotes them
        raise InputError(
            f"{slice_name} can no longer be read ({type(error).__name__}); restore it, or run intake again"
        ) from None


def _require_same_series(slices: Sequence[Dataset], channel: ChannelSource) -> None:
    for number, header in enumerate(slices, 1):
        found = tuple(str(header.get(keyword) or "") for keyword in ("SeriesInstanceUID", "StudyInstanceUID"))
        if found != (channel.series_uid, channel.study_uid):
            raise InputError(
                f"slice {number} of {len(slices)} of the source belongs to another series or study than at intake; run intake again"
            )


def _places(images: Sequence[Dataset], frames: Sequence[int]) -> list[_Place | None]:
    """None for a slice that does not tell; of a multi-frame file, the places of these frames."""
    if not frames:
        return [_place(image, image, image) for image in images]
    shared = (images[0].get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    told = images[0].PerFrameFunctionalGroupsSequence
    groups = [told[number - 1] if number <= len(told) else Dataset() for number in frames]

    def item(group: Dataset, keyword: str) -> Dataset:
        return (group.get(keyword) or shared.get(keyword) or [Dataset()])[0]

    keywords = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return [_place(*(item(group, keyword) for keyword in keywords)) for group in groups]


def _place(position: Dataset, orientation: Dataset, measures: Dataset) -> _Place | None:
    try:
        rows_mm, columns_mm = map(float, measures.PixelSpacing)
        axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
        return _Place(np.array(position.ImagePositionPatient, dtype=float).reshape(3), axes, (rows_mm, columns_mm))
    except Exception:  # pydicom converts on access, and fails in many ways
        return None


def _require_grid(places: Sequence[_Place | None], size: tuple[int, int], grid: Grid) -> list[np.ndarray]:
    """Positions of the slices, mm; voxel [k, j, i] of the grid must be row j, column i of slice k."""
    steps_mm = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)
    moved = "the source series no longer lies where intake found it; run intake again"
    if len(places) != grid.size[2] or size != tuple(grid.size[:2]):
        raise InputError(f"{len(places)} slices of {size[0]} x {size[1]} for a grid of {grid.size}: {moved}")
    positions_mm = []
    for number, place in enumerate(places):
        if place is None:
            raise InputError(
                f"slice {number + 1} of {len(places)} has no position, orientation or spacing any more: {moved}"
            )
        of_rows_mm, of_columns_mm = place.spacing_mm
        along_row, along_column = place.orientation
        there_mm = [
            place.position_mm + i * of_columns_mm * along_row + j * of_rows_mm * along_column for i, j in _corners(size)
        ]
        here_mm = [grid.origin_mm + steps_mm @ (i, j, number) for i, j in _corners(size)]
        if not np.abs(np.linalg.solve(steps_mm, np.subtract(there_mm, here_mm).T)).max() <= _TOLERANCE_VOX:
            raise InputError(f"slice {number + 1} of {len(places)}: {moved}")
        positions_mm.append(place.position_mm)
    return positions_mm


def _corners(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(0, 0), (size[0] - 1, 0), (0, size[1] - 1)]


def _complete(slices: Sequence[Dataset]) -> tuple[str, ...]:
    """Give the headers what DICOM demands and careless anonymization took away; which UIDs had to be made up."""
    invented = []
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
            invented.append("SOPInstanceUID")
        for keyword in _NEEDED:
            if header.get(keyword) is None:
                setattr(header, keyword, "")
        if header.PatientSex not in ("M", "F", "O"):
            header.PatientSex = ""
        for keyword, kind in _TIMES.items():
            if not _is_valid(kind, header.get(keyword)):
                setattr(header, keyword, "")
    # After the instances' UIDs, on which the others are based: one scan has the same ones at every
    # delivery.
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not slices[0].get(keyword):
            uid = generate_uid(entropy_srcs=[keyword, *(header.SOPInstanceUID for header in slices)])
            invented.append(keyword)
            for header in slices:
                setattr(header, keyword, uid)
    return tuple(dict.fromkeys(invented))


def _is_valid(kind: type, value: object) -> bool:
    try:
        return not value or kind(str(value)) is not None
    except Exception:  # of pydicom, in several kinds
        return False


def _identity(header: Dataset) -> list[str]:
    return [
        str(header.get(keyword) or "")
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "ImagePositionPatient")
    ]
