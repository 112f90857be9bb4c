"""Slices of one file: the file itself, frames of a multi-frame file, or tiles of a mosaic."""

from __future__ import annotations

from pathlib import Path

from nnunet_anatomix.clinical.dicom.frames import frame_headers
from nnunet_anatomix.clinical.dicom.headers import SliceHeader, read_slice_header
from nnunet_anatomix.clinical.dicom.mosaic import is_mosaic, tile_headers
from nnunet_anatomix.clinical.dicom.nuclear import is_nuclear_volume, nuclear_headers
from nnunet_anatomix.clinical.dicom.parsing import HEAD_BYTES
from nnunet_anatomix.clinical.walk import FoundFile


def slice_headers(path: Path, header: SliceHeader) -> list[SliceHeader]:
    """Return one header per slice of a file, in the order of the file.

    Args:
        path: Path of the file.
        header: Header of the file, without a problem.

    Returns:
        The header itself if the file holds one slice with a place of its own. Otherwise headers
            with ``frame`` from 1.

    Raises:
        Unusable: If the slices have no positions, or the tags are damaged.
    """
    if is_mosaic(header):
        return tile_headers(path, header)
    if is_nuclear_volume(header):
        return nuclear_headers(path, header)
    # Enhanced files have places in functional groups, even if they hold a single frame.
    if header.frames > 1 or (header.position_mm is None and header.is_enhanced):
        return frame_headers(path, header)
    return [header]


def read_slices(path: Path, file: str) -> list[SliceHeader]:
    """Read a file's header, and return the headers of its slices.

    Args:
        path: Path of the file.
        file: Name of the file in the headers.

    Raises:
        Unusable: As :func:`slice_headers`, or if the header is damaged.
        OSError: If the file cannot be opened.
    """
    status = path.stat()
    with path.open("rb") as stream:
        header = read_slice_header(FoundFile(file, status.st_size, status.st_mtime_ns), stream, stream.read(HEAD_BYTES))
    return slice_headers(path, header)
