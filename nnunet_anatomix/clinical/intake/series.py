"""Grouping of DICOM files into series, and the checks that every series must pass."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from nnunet_anatomix.clinical.dicom.content import UNKNOWN_SERIES, SeriesContent, summarize_content
from nnunet_anatomix.clinical.dicom.expansion import slice_headers
from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from nnunet_anatomix.clinical.dicom.pet import PetFacts, read_pet_facts
from nnunet_anatomix.clinical.dicom.slices import stack_slices
from nnunet_anatomix.clinical.dicom.volumes import Volume, split_volumes
from nnunet_anatomix.clinical.intake.agent_evidence import UNMARKED, AgentEvidence
from nnunet_anatomix.clinical.phrases import pluralize
from nnunet_anatomix.clinical.walk import FoundFile
from pretraining.imaging.grids import Grid
from pretraining.imaging.rejection import Unusable

_NOT_SCANS = {
    "SEG": "segmentation",
    "SR": "report",
    "PR": "presentation state",
    "KO": "key object note",
    "RTSTRUCT": "radiotherapy contours",
    "RTDOSE": "radiotherapy dose",
    "RTPLAN": "radiotherapy plan",
    "REG": "registration",
    "DOC": "document",
}
LOSSY = "lossy compression"
"""Remark on a series."""
_UNITS = {"CT": "Hounsfield units", "PT": "activity"}
"""Units of the modalities whose stored values have no meaning without rescale tags."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One scan: a DICOM series or an image file. Tag values and paths may identify a patient."""

    kind: Literal["dicom", "image"]
    files: tuple[str, ...]
    """Paths in the order of slices; in the order of names if the series has a problem. One path if
    all slices are in one file.
    """
    frames: tuple[int, ...] = ()
    """Number of each slice in its file, from 1: the frame of a multi-frame file, or the tile of a
    mosaic. Empty if each file is a slice.
    """
    fingerprint: str
    """Hash of the files' names, sizes and modification times."""
    case_key: tuple[str, str]
    """Key of the case: patient and study of DICOM; folder and name, without the words for the
    channel, of other files.
    """
    patient: str = ""
    problem: str = ""
    """Reason why the series cannot be used for any channel; empty if there is none."""
    notes: tuple[str, ...] = ()
    """Remarks on a series that can be used."""
    grid: Grid | None = None
    modality: str = ""
    description: str = ""
    body_part: str = ""
    """BodyPartExamined; empty if unknown."""
    image_type: tuple[str, ...] = ()
    kernel: str = ""
    rescale_type: str = ""
    content: SeriesContent = UNKNOWN_SERIES
    """Content of the images."""
    pet: PetFacts | None = None
    """Tags that SUV is computed from; None unless the series is PET."""
    has_label_values: bool = False
    """True if the values of an image file are those of a mask or label map."""
    agent: AgentEvidence = UNMARKED
    """Whether an MR scan shows a contrast agent, judged within its study."""
    study_uid: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    volume: str = ""
    """Labels that identify the volume, such as ``echo_time=80``; empty if the series is one volume.
    """
    is_scout: bool = False
    """True for a localizer within a series of other slices."""
    positions_mm: tuple[tuple[float, float, float], ...] = ()
    """Positions of tilted or unevenly spaced slices (LPS), which are resampled to ``grid``; empty
    if the slices are the planes of the grid.
    """
    slice_size: tuple[int, ...] = ()
    """Columns and rows of those slices; otherwise empty."""
    coding: str = ""
    """Name of the transfer syntax."""

    @property
    def known_grid(self) -> Grid:
        """Voxel grid of a series without a problem.

        Raises:
            ValueError: If the series has a problem and so no grid.
        """
        if self.grid is None:
            raise ValueError("a series with a problem has no grid")
        return self.grid

    @property
    def folder(self) -> str:
        """Folder of the files, or the deepest folder that contains all of them."""
        parents = {str(PurePosixPath(file).parent) for file in self.files}
        return parents.pop() if len(parents) == 1 else _common_folder(self.files)


def fingerprint_files(files: Iterable[FoundFile]) -> str:
    """Hash the names, sizes and modification times of files, in the given order."""
    text = "\n".join(f"{file.file}\0{file.size_bytes}\0{file.mtime_ns}" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def group_dicom_series(root: Path, headers: Iterable[SliceHeader]) -> list[Series]:
    """Group files by SeriesInstanceUID and check each group.

    Files without that UID (anonymization may remove it) are grouped by folder, study, series
    number, modality, description and frame of reference.

    Args:
        root: Path of the tree.
        headers: Headers of all DICOM files.

    Returns:
        One entry per volume: a series of several echoes, b-values or time points has several.
    """
    groups: dict[tuple, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        folder = str(PurePosixPath(header.file.file).parent)
        unnamed = (
            folder,
            header.study_uid,
            header.series_number,
            header.modality,
            header.description,
            header.frame_uid,
        )
        groups[(header.series_uid,) if header.series_uid else unnamed].append(header)
    return [
        series
        for group in groups.values()
        for series in _assess_series(root, sorted(group, key=lambda header: header.file.file))
    ]


def _assess_series(root: Path, headers: list[SliceHeader]) -> list[Series]:
    first = headers[0]
    files = tuple(header.file.file for header in headers)
    # Without a StudyInstanceUID, files of one folder count as one study.
    study = first.study_uid or f"folder {_common_folder(files)}"
    series = Series(
        kind="dicom",
        files=files,
        fingerprint=fingerprint_files(header.file for header in headers),
        case_key=(first.patient_id, study),
        patient=first.patient_id or study,
        modality=first.modality,
        description=first.description,
        body_part=first.body_part,
        image_type=first.image_type,
        kernel=first.kernel,
        rescale_type=first.rescale_type,
        content=_summarize(headers),
        pet=read_pet_facts(root / files[0]) if first.modality == "PT" else None,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        frame_uid=first.frame_uid,
        coding=first.coding,
    )
    try:
        distinct, copies = _drop_copies(root, headers)
        _require_sound_files(distinct)
        _require_one_identity(distinct)
        slices = [part for header in distinct for part in slice_headers(root / header.file.file, header)]
    except Unusable as reason:
        return [replace(series, problem=str(reason))]
    notes = (f"{pluralize(copies, 'identical duplicate')} ignored",) if copies else ()
    volumes = split_volumes(slices)
    return [_assess_volume(replace(series, notes=notes), volume, several=len(volumes) > 1) for volume in volumes]


def _assess_volume(series: Series, volume: Volume, *, several: bool) -> Series:
    """Return the series of one volume: its slices, grid and remarks, or its problem."""
    first = volume.slices[0]
    series = replace(
        series,
        files=tuple(dict.fromkeys(header.file.file for header in volume.slices)),
        volume=volume.name,
        is_scout=volume.is_scout and several,
        image_type=first.image_type,
    )
    try:
        _require_grey(volume.slices)
        stack = stack_slices(volume.slices)
        _require_rescale(volume.slices)
    except Unusable as reason:
        return replace(series, problem=str(reason))
    ordered = stack.slices
    notes = list(series.notes)
    if not several and (first_number := min(header.instance or 1 for header in ordered)) > 1:
        notes.append(f"instance numbers begin at {first_number:.0f}: slices may be missing at one end")
    if any(header.lossy for header in ordered):
        notes.append(LOSSY)
    if stack.note:
        notes.append(stack.note)
    files = tuple(header.file.file for header in ordered)
    return replace(
        series,
        files=files[:1] if len(set(files)) == 1 else files,
        frames=tuple(header.frame for header in ordered) if ordered[0].frame else (),
        fingerprint=fingerprint_files(dict.fromkeys(header.file for header in ordered)),
        rescale_type=ordered[0].rescale_type,
        content=_summarize(ordered),
        grid=stack.grid,
        positions_mm=stack.positions_mm,
        slice_size=(first.columns, first.rows) if stack.positions_mm else (),
        notes=tuple(notes),
    )


def _summarize(headers: Sequence[SliceHeader]) -> SeriesContent:
    return summarize_content(
        [header.content for header in headers], [(header.slope, header.intercept) for header in headers]
    )


def _drop_copies(root: Path, headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], int]:
    """Return each instance once, and the number of identical copies removed."""
    seen: dict[str, SliceHeader] = {}
    distinct: list[SliceHeader] = []
    for header in headers:
        earlier = seen.setdefault(header.instance_uid or header.file.file, header)
        if earlier is header:
            distinct.append(header)
            continue
        try:
            same = filecmp.cmp(root / earlier.file.file, root / header.file.file, shallow=False)
        except OSError:
            same = False
        if not same:
            raise Unusable("two different files have the same SOPInstanceUID")
    return distinct, len(headers) - len(distinct)


def _require_one_identity(headers: Sequence[SliceHeader]) -> None:
    names = {"patient_id": "patient", "study_uid": "study", "modality": "modality", "frame_uid": "frame of reference"}
    differing = [name for field, name in names.items() if len({getattr(header, field) for header in headers}) > 1]
    if differing:
        raise Unusable(f"different series have the same SeriesInstanceUID: they differ in {', '.join(differing)}")


def _require_sound_files(headers: Sequence[SliceHeader]) -> None:
    modalities = {header.modality for header in headers}
    if len(modalities) == 1 and headers[0].modality in _NOT_SCANS:
        raise Unusable(f"not a scan: {_NOT_SCANS[headers[0].modality]} ({headers[0].modality})")
    if problems := Counter(header.problem for header in headers if header.problem):
        problem = problems.most_common(1)[0][0]
        raise Unusable(f"{pluralize(sum(problems.values()), 'file')} of {len(headers)}: {problem}")


def _require_grey(headers: Sequence[SliceHeader]) -> None:
    if any(header.samples > 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", "") for header in headers):
        raise Unusable("colour image (such as a secondary capture of a screen)")
    if any(header.photometric == "MONOCHROME1" for header in headers):
        raise Unusable("grey values are inverted (MONOCHROME1)")


def _require_rescale(headers: Sequence[SliceHeader]) -> None:
    lacking = sum(header.slope is None or header.intercept is None for header in headers)
    if any(header.slope == 0 for header in headers):
        raise Unusable("rescale slope is 0")
    modality = headers[0].modality
    if lacking and modality in _UNITS:
        raise Unusable(
            f"{pluralize(lacking, 'file')} of {len(headers)} without rescale tags: values are not {_UNITS[modality]}"
        )
    if 0 < lacking < len(headers):
        raise Unusable(f"{pluralize(lacking, 'file')} of {len(headers)} without the rescale tags of the others")


def _common_folder(files: Sequence[str]) -> str:
    parts = [PurePosixPath(file).parent.parts for file in files]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared) or "."
