"""A whole tree to series and strays: every file is opened once, by several processes where there are many."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from nnunet_anatomix.clinical.dicom.headers import DAMAGED, HEAD_BYTES, SliceHeader, is_dicom, read_slice_header
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.channel_words import case_of_image
from nnunet_anatomix.clinical.intake.image_files import data_files, image_ending, image_grid, stem
from nnunet_anatomix.clinical.intake.series import Series, dicom_series, doubt, fingerprint
from nnunet_anatomix.clinical.phrases import Unusable
from nnunet_anatomix.clinical.walk import FoundFile, Stray, error_reason, walk
from pretraining.common.processes import imap_unordered
from pretraining.imaging.grids import Grid

log = logging.getLogger(__name__)

_EMPTY = "empty file"
_CHUNK = 250
"""Files handed to a process at once."""
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
    """An image file that is no DICOM."""

    file: FoundFile
    data: tuple[str, ...] = ()
    grid: Grid | None = None
    problem: str = ""
    note: str = ""


Seen = SliceHeader | ImageHeader | Stray


def look_at(root: Path, found: FoundFile) -> Seen:
    """What one file is; reads its header alone."""
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
            return _image_header(root, found)
        if head[257:262] == b"ustar":
            return Stray(found.file, "tar archive: not opened; unpack it first")
        for magic, name in _ARCHIVES.items():
            if head.startswith(magic):
                return Stray(found.file, f"{name} archive: not opened; unpack it first")
    except Unusable as reason:
        return Stray(found.file, str(reason))
    except OSError as error:
        return Stray(found.file, f"cannot be opened ({error_reason(error)})")
    except Exception:  # one damaged file among thousands must not end the run
        return Stray(found.file, DAMAGED)
    return Stray(found.file, "no image format that is known")


def _image_header(root: Path, found: FoundFile) -> ImageHeader:
    data: tuple[str, ...] = ()
    try:
        data = data_files(root, found.file)
        grid, note = image_grid(root, found.file)
        return ImageHeader(found, data, grid, note=note)
    except Unusable as reason:
        return ImageHeader(found, data, problem=str(reason))


def _look_at_all(job: tuple[Path, Sequence[FoundFile]]) -> list[Seen]:
    root, files = job
    with quiet_readers():
        return [look_at(root, found) for found in files]


def scan_tree(root: Path, *, workers: int = 1) -> tuple[list[Series], list[Stray]]:
    """Find all series below a folder, in the order of their first files' paths, and what is none.

    Args:
        root: Absolute and resolved; nothing in it is written to, no link is followed.
        workers: Processes.
    """
    files, strays = walk(root)
    chunks = [(root, files[start : start + _CHUNK]) for start in range(0, len(files), _CHUNK)]
    seen: list[Seen] = []
    with tqdm(total=len(files), desc="reading headers", unit="file", leave=False, disable=None) as progress:
        # A spawned process takes as long to start as a thousand headers to read.
        for (_, chunk), found in imap_unordered(
            _look_at_all, chunks, processes=min(workers, len(chunks)) if len(chunks) > 8 else 1
        ):
            seen += found
            progress.update(len(chunk))
    by_name = {found.file: found for found in files}
    headers = [item for item in seen if isinstance(item, SliceHeader)]
    images = [item for item in seen if isinstance(item, ImageHeader)]
    detached = {file for image in images for file in image.data}
    strays += [item for item in seen if isinstance(item, Stray) and item.file not in detached]
    names = {image.file.file for image in images}
    damaged = [
        stray.file
        for stray in strays
        if stray.reason == DAMAGED or (stray.reason == _EMPTY and _named_like_a_slice(stray.file))
    ]
    series = doubt(dicom_series(root, headers), damaged)
    series += [_image_series(image, by_name, names) for image in images]
    return sorted(series, key=lambda each: (min(each.files), each.series_uid)), sorted(
        strays, key=lambda stray: stray.file
    )


def _named_like_a_slice(file: str) -> bool:
    suffix = PurePosixPath(file).suffix.lower()
    return suffix in ("", ".dcm", ".dicom", ".ima") or suffix[1:].isdigit()


def _image_series(image: ImageHeader, by_name: dict[str, FoundFile], names: set[str]) -> Series:
    files = (image.file.file, *image.data)
    key = case_of_image(image.file.file, names)
    return Series(
        kind="image",
        files=files,
        fingerprint=fingerprint(by_name[file] for file in files if file in by_name),
        case_key=key,
        patient="/".join(key),
        problem=image.problem,
        notes=(image.note,) if image.note else (),
        grid=image.grid,
        description=stem(image.file.file),
    )
