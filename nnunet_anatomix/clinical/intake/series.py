"""Found scans: DICOM files grouped to series, and every series judged by itself before anything is chosen."""

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
from nnunet_anatomix.clinical.phrases import Unusable, count_phrase
from nnunet_anatomix.clinical.walk import FoundFile
from pretraining.imaging.grids import Grid

_NO_SCANS = {
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
_IN_UNITS = {"CT": "Hounsfield units", "PT": "activity"}
"""Modalities whose stored values mean nothing without rescale tags."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One scan as found: a DICOM series or one image file. Tag values and paths in it may identify a patient."""

    kind: Literal["dicom", "image"]
    files: tuple[str, ...]
    """In the order of slices if the series is sound, else by name."""
    frames: tuple[int, ...] = ()
    """Of the one multi-frame file, from 1, in the order of slices."""
    fingerprint: str
    case_key: tuple[str, str]
    """What belongs to one case: patient and study of DICOM; folder and name, less the words for the
    channel, of other files.
    """
    patient: str = ""
    problem: str = ""
    """Why it cannot be taken for anything; nothing if it is sound."""
    notes: tuple[str, ...] = ()
    grid: Grid | None = None
    modality: str = ""
    description: str = ""
    image_type: tuple[str, ...] = ()
    kernel: str = ""
    rescale_type: str = ""
    contrast_agent: bool = False
    study_uid: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    rescales_differ: bool = False
    coding: str = ""

    @property
    def placed(self) -> Grid:
        """The grid, which a series without a problem has."""
        if self.grid is None:
            raise ValueError("a series with a problem has no grid")
        return self.grid

    @property
    def folder(self) -> str:
        parents = {str(PurePosixPath(file).parent) for file in self.files}
        return parents.pop() if len(parents) == 1 else _common_folder(self.files)


def fingerprint(files: Iterable[FoundFile]) -> str:
    """Changes with names, sizes and times of files, and with their order."""
    said = "\n".join(f"{file.file}\0{file.size_bytes}\0{file.mtime_ns}" for file in files)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def dicom_series(root: Path, headers: Iterable[SliceHeader]) -> list[Series]:
    """Group files by SeriesInstanceUID and judge each group.

    Files without that UID (as careless anonymization leaves them) are grouped by folder, study,
    number, modality, description and frame of reference.
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
    return [_judged(root, sorted(group, key=lambda header: header.file.file)) for group in groups.values()]


def doubt(series: Sequence[Series], damaged: Iterable[str]) -> list[Series]:
    """Look at damaged DICOM files that no series claims: the one series they lie with may lack them.

    Args:
        damaged: Paths of files of which not even the series is known; damaged files that are a
            series of their own are counted with them.

    Returns:
        The series; one that has a folder to itself and damaged files is not sound any more, several
        in such a folder get a remark.
    """
    alone = {number for number, each in enumerate(series) if each.problem.startswith(_ONE_DAMAGED)}
    lost = Counter(
        str(PurePosixPath(file).parent) for file in [*damaged, *(series[number].files[0] for number in alone)]
    )
    beside: dict[str, set[int]] = defaultdict(set)
    for number, each in enumerate(series):
        if number not in alone:
            for folder in {file.rpartition("/")[0] or "." for file in each.files} & lost.keys():
                beside[folder].add(number)
    result = list(series)
    for folder, count in lost.items():
        holders = beside[folder]
        lies = f"{count_phrase(count, 'damaged DICOM file')} {'lies' if count == 1 else 'lie'} in its folder: perhaps a slice of it"
        for number in holders:
            each = result[number]
            if len(holders) > 1:
                result[number] = replace(each, notes=(*each.notes, lies))
            elif not each.problem:
                result[number] = replace(each, problem=lies)
    return result


def _judged(root: Path, headers: list[SliceHeader]) -> Series:
    first = headers[0]
    files = tuple(header.file.file for header in headers)
    # Without a study's UID, a folder is the nearest thing to a study.
    study = first.study_uid or f"folder {_common_folder(files)}"
    series = Series(
        kind="dicom",
        files=files,
        fingerprint=fingerprint(header.file for header in headers),
        case_key=(first.patient_id, study),
        patient=first.patient_id or study,
        modality=first.modality,
        description=first.description,
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
        distinct, copies = _without_copies(root, headers)
        _require_sound_files(distinct)
        _require_one_identity(distinct)
        slices = _slices(root, distinct)
        ordered, grid = stack_slices(slices)
        _require_rescale(slices)
    except Unusable as reason:
        return replace(series, problem=str(reason))
    notes = [f"{count_phrase(copies, 'identical duplicate')} left out"] if copies else []
    if (first_number := min(header.instance or 1 for header in ordered)) > 1:
        notes.append(f"instance numbers begin at {first_number:.0f}: slices at an end may be missing")
    if any(header.lossy for header in ordered):
        notes.append("compressed with loss")
    return replace(
        series,
        files=tuple(dict.fromkeys(header.file.file for header in ordered)),
        frames=tuple(header.frame for header in ordered) if ordered[0].frame else (),
        fingerprint=fingerprint(dict.fromkeys(header.file for header in ordered)),
        rescale_type=ordered[0].rescale_type,
        rescales_differ=len({(header.slope, header.intercept) for header in ordered}) > 1,
        grid=grid,
        notes=tuple(notes),
    )


def _slices(root: Path, headers: list[SliceHeader]) -> list[SliceHeader]:
    """The files' headers, or those of the frames of the one multi-frame file."""
    if all(header.frames == 1 for header in headers):
        return headers
    if len(headers) > 1:
        raise Unusable(f"{len(headers)} files, of which some hold several frames")
    slices = frame_headers(root / headers[0].file.file, headers[0])
    if len({(header.slope, header.intercept) for header in slices}) > 1:
        raise Unusable("frames of one file are rescaled differently: export them as single-frame DICOM")
    return slices


def _without_copies(root: Path, headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], int]:
    """Each instance once, and how many identical copies there were."""
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
            raise Unusable("two different files carry one SOPInstanceUID")
    return distinct, len(headers) - len(distinct)


def _require_one_identity(headers: Sequence[SliceHeader]) -> None:
    names = {"patient_id": "patient", "study_uid": "study", "modality": "modality", "frame_uid": "frame of reference"}
    differing = [name for field, name in names.items() if len({getattr(header, field) for header in headers}) > 1]
    if differing:
        raise Unusable(f"different series share one SeriesInstanceUID: they differ in {', '.join(differing)}")


def _require_sound_files(headers: Sequence[SliceHeader]) -> None:
    modalities = {header.modality for header in headers}
    if len(modalities) == 1 and headers[0].modality in _NO_SCANS:
        raise Unusable(f"no scan: {_NO_SCANS[headers[0].modality]} ({headers[0].modality})")
    if any(header.samples > 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", "") for header in headers):
        raise Unusable("colour image (such as a secondary capture of a screen)")
    if problems := Counter(header.problem for header in headers if header.problem):
        problem = problems.most_common(1)[0][0]
        raise Unusable(f"{count_phrase(sum(problems.values()), 'file')} of {len(headers)}: {problem}")
    if any(header.photometric == "MONOCHROME1" for header in headers):
        raise Unusable("grey values are inverted (MONOCHROME1)")


def _require_rescale(headers: Sequence[SliceHeader]) -> None:
    lacking = sum(header.slope is None or header.intercept is None for header in headers)
    if any(header.slope == 0 for header in headers):
        raise Unusable("rescale slope is 0")
    modality = headers[0].modality
    if lacking and modality in _IN_UNITS:
        raise Unusable(
            f"{count_phrase(lacking, 'file')} of {len(headers)} without rescale tags: values are no {_IN_UNITS[modality]}"
        )
    if 0 < lacking < len(headers):
        raise Unusable(f"{count_phrase(lacking, 'file')} of {len(headers)} without rescale tags that the others have")


def _common_folder(files: Sequence[str]) -> str:
    parts = [PurePosixPath(file).parent.parts for file in files]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared) or "."
