"""Grouping of DICOM files into series, and the checks that every series must pass."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from nnunet_anatomix.clinical.dicom.frames import frame_headers
from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from nnunet_anatomix.clinical.dicom.slices import stack_slices
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
_ONE_DAMAGED = "1 file of 1: "
"""Start of the problem of a series that consists of one damaged file."""
_UNITS = {"CT": "Hounsfield units", "PT": "activity"}
"""Units of the modalities whose stored values have no meaning without rescale tags."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One scan: a DICOM series or an image file. Tag values and paths may identify a patient."""

    kind: Literal["dicom", "image"]
    files: tuple[str, ...]
    """Paths in the order of slices; in the order of names if the series has a problem."""
    frames: tuple[int, ...] = ()
    """Frame numbers of a multi-frame file, from 1, in the order of slices; otherwise empty."""
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
    contrast_agent: bool = False
    study_uid: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    rescales_differ: bool = False
    """True if the slices have different rescale tags."""
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
    return [_assess_series(root, sorted(group, key=lambda header: header.file.file)) for group in groups.values()]


def flag_missing_slices(series: Sequence[Series], damaged: Iterable[str]) -> list[Series]:
    """Flag series that may lack slices because their folder holds damaged DICOM files.

    Args:
        series: All DICOM series.
        damaged: Paths of files whose series is unknown. Damaged files that form a series of their
            own are added to them.

    Returns:
        The series. A series that is alone in such a folder gets a problem; if there are several,
            each gets a note.
    """
    alone = {number for number, each in enumerate(series) if each.problem.startswith(_ONE_DAMAGED)}
    damaged_in = Counter(
        str(PurePosixPath(file).parent) for file in [*damaged, *(series[number].files[0] for number in alone)]
    )
    series_in: dict[str, set[int]] = defaultdict(set)
    for number, each in enumerate(series):
        if number not in alone:
            for folder in {file.rpartition("/")[0] or "." for file in each.files} & damaged_in.keys():
                series_in[folder].add(number)
    result = list(series)
    for folder, count in damaged_in.items():
        numbers = series_in[folder]
        remark = f"{pluralize(count, 'damaged DICOM file')} in its folder: possibly missing slices of this series"
        for number in numbers:
            each = result[number]
            if len(numbers) > 1:
                result[number] = replace(each, notes=(*each.notes, remark))
            elif not each.problem:
                result[number] = replace(each, problem=remark)
    return result


def _assess_series(root: Path, headers: list[SliceHeader]) -> Series:
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
        contrast_agent=any(header.contrast_agent for header in headers),
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        frame_uid=first.frame_uid,
        coding=first.coding,
    )
    try:
        distinct, copies = _drop_copies(root, headers)
        _require_sound_files(distinct)
        _require_one_identity(distinct)
        slices = _expand_frames(root, distinct)
        ordered, grid = stack_slices(slices)
        _require_rescale(slices)
    except Unusable as reason:
        return replace(series, problem=str(reason))
    notes = [f"{pluralize(copies, 'identical duplicate')} ignored"] if copies else []
    if (first_number := min(header.instance or 1 for header in ordered)) > 1:
        notes.append(f"instance numbers begin at {first_number:.0f}: slices may be missing at one end")
    if any(header.lossy for header in ordered):
        notes.append("lossy compression")
    return replace(
        series,
        files=tuple(dict.fromkeys(header.file.file for header in ordered)),
        frames=tuple(header.frame for header in ordered) if ordered[0].frame else (),
        fingerprint=fingerprint_files(dict.fromkeys(header.file for header in ordered)),
        rescale_type=ordered[0].rescale_type,
        rescales_differ=len({(header.slope, header.intercept) for header in ordered}) > 1,
        grid=grid,
        notes=tuple(notes),
    )


def _expand_frames(root: Path, headers: list[SliceHeader]) -> list[SliceHeader]:
    """Return the headers of the files, or of the frames of a single multi-frame file."""
    if all(header.frames == 1 for header in headers):
        return headers
    if len(headers) > 1:
        raise Unusable(f"{len(headers)} files, some of them multi-frame")
    slices = frame_headers(root / headers[0].file.file, headers[0])
    if len({(header.slope, header.intercept) for header in slices}) > 1:
        raise Unusable("frames of one file have different rescale tags: export them as single-frame DICOM")
    return slices


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
    if any(header.samples > 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", "") for header in headers):
        raise Unusable("colour image (such as a secondary capture of a screen)")
    if problems := Counter(header.problem for header in headers if header.problem):
        problem = problems.most_common(1)[0][0]
        raise Unusable(f"{pluralize(sum(problems.values()), 'file')} of {len(headers)}: {problem}")
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
