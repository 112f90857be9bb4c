"""Search of a tree for series. Every file is opened once, in parallel if there are many."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from nnunet_anatomix.clinical.dicom.headers import SliceHeader, is_dicom, read_slice_header
from nnunet_anatomix.clinical.dicom.parsing import DAMAGED, HEAD_BYTES
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.channel_words import image_case_key, is_in_label_folder, is_label_map
from nnunet_anatomix.clinical.intake.damaged_files import flag_missing_slices
from nnunet_anatomix.clinical.intake.image_files import find_data_files, image_ending, image_stem, read_image_grid
from nnunet_anatomix.clinical.intake.label_values import has_label_values
from nnunet_anatomix.clinical.intake.series import Series, fingerprint_files, group_dicom_series
from nnunet_anatomix.clinical.phrases import describe_error
from nnunet_anatomix.clinical.walk import FoundFile, Stray, walk
from pretraining.common.child import hides_progress_bars
from pretraining.common.processes import imap_unordered
from pretraining.imaging.grids import Grid
from pretraining.imaging.rejection import Unusable
from pretraining.imaging.volume_header import VolumeHeader

log = logging.getLogger(__name__)

_EMPTY = "empty file"
_CHUNK = 250
"""Number of files per task of a process."""
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file that is not DICOM."""

    file: FoundFile
    data: tuple[str, ...] = ()
    """Detached data file, if any; path relative to the tree."""
    grid: Grid | None = None
    """Voxel grid; None if there is a problem."""
    problem: str = ""
    """Reason why the file cannot be used; empty if there is none."""
    note: str = ""
    """Remark on the orientation."""
    has_label_values: bool = False
    """True if the values are those of a mask or label map."""


Classified = SliceHeader | ImageHeader | Stray


def classify_file(root: Path, found: FoundFile) -> Classified:
    """Classify one file by its header.

    Args:
        root: Path of the tree.
        found: File of the tree.

    Returns:
        The header of a DICOM or image file; for any other file, the reason why it is skipped.
    """
    if not found.size_bytes:
        return Stray(found.file, _EMPTY)
    try:
        with (root / found.file).open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            if is_dicom(head):
                return read_slice_header(found, stream, head)
        if not head.strip(b"\0"):
            return Stray(found.file, _EMPTY)
        if image_ending(found.file):
            return _read_image_header(root, found)
        if head[257:262] == b"ustar":
            return Stray(found.file, "tar archive: not opened; unpack it first")
        for magic, name in _ARCHIVES.items():
            if head.startswith(magic):
                return Stray(found.file, f"{name} archive: not opened; unpack it first")
    except Unusable as reason:
        return Stray(found.file, str(reason))
    except OSError as error:
        return Stray(found.file, f"cannot be opened ({describe_error(error)})")
    except Exception:  # one damaged file must not abort the run
        return Stray(found.file, DAMAGED)
    return Stray(found.file, "unknown file format")


def _read_image_header(root: Path, found: FoundFile) -> ImageHeader:
    data: tuple[str, ...] = ()
    try:
        data = find_data_files(root, found.file)
        grid, note, header = read_image_grid(root, found.file)
        labels = not is_label_map(found.file) and _has_labels(found.file, header)
        return ImageHeader(found, data, grid, note=note, has_label_values=labels)
    except Unusable as reason:
        return ImageHeader(found, data, problem=str(reason))


def _has_labels(file: str, header: VolumeHeader) -> bool:
    # Reading all masks of a scan takes longer than all else; no scan of 8 bits lies among them.
    return (is_in_label_folder(file) and header.dtype == np.uint8) or has_label_values(header)


def _classify_files(job: tuple[Path, Sequence[FoundFile]]) -> list[Classified]:
    root, files = job
    with quiet_readers():
        return [classify_file(root, found) for found in files]


def scan_tree(root: Path, *, workers: int = 1) -> tuple[list[Series], list[Stray]]:
    """Find all series of a tree.

    Args:
        root: Absolute, resolved path of the tree. Nothing is written to it; no link is followed.
        workers: Number of processes.

    Returns:
        The series in the order of their first files' paths, and the files and folders that belong
            to none.
    """
    files, strays = walk(root)
    return group_files(root, files, classify_files(root, files, workers=workers), strays)


def classify_files(root: Path, files: Sequence[FoundFile], *, workers: int = 1) -> list[Classified]:
    """Classify files by their headers, in the order of completion.

    Args:
        root: Absolute, resolved path of the tree.
        files: Files of the tree.
        workers: Number of processes.
    """
    chunks = [(root, files[start : start + _CHUNK]) for start in range(0, len(files), _CHUNK)]
    seen: list[Classified] = []
    with tqdm(
        total=len(files), desc="reading headers", unit="file", leave=False, disable=hides_progress_bars()
    ) as progress:
        # Starting a process takes as long as reading a thousand headers.
        for (_, chunk), found in imap_unordered(
            _classify_files, chunks, processes=min(workers, len(chunks)) if len(chunks) > 8 else 1
        ):
            seen += found
            progress.update(len(chunk))
    return seen


def group_files(
    root: Path, files: Sequence[FoundFile], seen: Sequence[Classified], strays: Sequence[Stray]
) -> tuple[list[Series], list[Stray]]:
    """Group classified files into series.

    Args:
        root: Absolute, resolved path of the tree.
        files: Files of the tree.
        seen: Result of :func:`classify_files` for these files.
        strays: Entries of the tree that are not regular files.

    Returns:
        As :func:`scan_tree`.
    """
    by_name = {found.file: found for found in files}
    headers = [item for item in seen if isinstance(item, SliceHeader)]
    images = [item for item in seen if isinstance(item, ImageHeader)]
    detached = {file for image in images for file in image.data}
    strays = [*strays, *(item for item in seen if isinstance(item, Stray) and item.file not in detached)]
    names = {image.file.file for image in images}
    slice_names = {_name_pattern(header.file.file) for header in headers}
    damaged = [
        stray.file
        for stray in strays
        if stray.reason == DAMAGED or (stray.reason == _EMPTY and _is_slice_name(stray.file, slice_names))
    ]
    with quiet_readers():
        series = flag_missing_slices(group_dicom_series(root, headers), damaged)
    series += [_build_image_series(image, by_name, names) for image in images]
    first_files = {each.series_uid: min(each.files) for each in reversed(series)}
    return sorted(
        series, key=lambda each: (first_files.get(each.series_uid, min(each.files)), each.series_uid)
    ), sorted(strays, key=lambda stray: stray.file)


def _is_slice_name(file: str, slice_names: set[str]) -> bool:
    """Return whether an empty file may be an interrupted copy of a slice, not a marker.

    Programs mark folders by empty files such as ``.done``, ``_SUCCESS`` or ``IM0001.lock``. A slice
    is named like its neighbours, has the ending of DICOM, or has no ending and a number.
    """
    if _name_pattern(file) in slice_names:
        return True
    path = PurePosixPath(file)
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return False
    return suffix in (".dcm", ".dicom", ".ima") or (
        (suffix == "" or suffix[1:].isdigit()) and any(character.isdigit() for character in path.name)
    )


def _name_pattern(file: str) -> str:
    """Return folder and name with each number replaced by ``#``."""
    folder, _, name = file.rpartition("/")
    return f"{folder}/{re.sub(r'[0-9]+', '#', name)}"


def _build_image_series(image: ImageHeader, by_name: dict[str, FoundFile], names: set[str]) -> Series:
    files = (image.file.file, *image.data)
    key = image_case_key(image.file.file, names)
    return Series(
        kind="image",
        files=files,
        fingerprint=fingerprint_files(by_name[file] for file in files if file in by_name),
        case_key=key,
        patient="/".join(key),
        problem=image.problem,
        notes=(image.note,) if image.note else (),
        has_label_values=image.has_label_values,
        grid=image.grid,
        description=image_stem(image.file.file),
    )
