"""Header checks of NIfTI, NRRD and MetaImage files, including detached data files."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path, PurePosixPath

import SimpleITK as sitk

from nnunet_anatomix.clinical.phrases import pluralize
from pretraining.imaging.grids import Grid
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_header, check_voxels, require_volume
from pretraining.imaging.limits import TEXT_HEADER_BYTES
from pretraining.imaging.orientation import is_sheared_alone, orientation_note, ras_affine
from pretraining.imaging.rejection import Unusable
from pretraining.imaging.volume_header import VolumeHeader

READERS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".hdr": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""File ending → name of ITK's reader."""
_META_KEY = re.compile(rb"elementdatafile", re.IGNORECASE)
_META_LINE = re.compile(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*[=:]([^\r\n]*)")
_NRRD_KEY = re.compile(rb"data[ _]?file[ \t]*:", re.IGNORECASE)
_NRRD_LINE = re.compile(rb"(?:^|[\r\n])data ?file:([^\r\n]*)", re.IGNORECASE)


def image_ending(name: str) -> str:
    """Return the ending of an image file, a key of :data:`READERS`; empty for other files."""
    lower = name.lower()
    return max((ending for ending in READERS if lower.endswith(ending)), key=len, default="")


def image_stem(file: str) -> str:
    """Return the name of an image file without folder and ending."""
    name = PurePosixPath(file).name
    return name[: len(name) - len(image_ending(name))]


def open_image_reader(path: Path) -> sitk.ImageFileReader:
    """Return ITK's reader for an image file, chosen by its ending."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[image_ending(path.name)])
    reader.SetFileName(str(path))
    return reader


def find_data_files(root: Path, file: str) -> tuple[str, ...]:
    """Return the data file of a detached header.

    Args:
        root: Resolved path of the tree.
        file: Path of the header, relative to ``root``.

    Returns:
        Path relative to ``root``; empty if the voxels follow the header in the same file.

    Raises:
        Unusable: If the data file is missing, is outside ``root``, or is a list or pattern of
            files.
    """
    ending = image_ending(file)
    path = root / file
    if ending == ".hdr":
        candidates = [f"{image_stem(file)}.img", f"{image_stem(file)}.img.gz"]
        named = next((name for name in candidates if (path.parent / name).is_file()), candidates[0])
    elif ending in (".mhd", ".mha"):
        named = _read_data_file(path, _META_KEY, _META_LINE)
        if named.upper() == "LOCAL":
            return ()
    elif ending in (".nhdr", ".nrrd"):
        named = _read_data_file(path, _NRRD_KEY, _NRRD_LINE, ends=(b"\n\n", b"\r\n\r\n"))
        if not named and ending == ".nrrd":
            return ()
    else:
        return ()
    if not named:
        raise Unusable("header does not name its data file")
    if (
        named.upper().startswith("LIST")
        or "%" in named
        or (len(named.split()) > 1 and not (path.parent / named).is_file())
    ):
        raise Unusable("voxels in several files, or data file is missing")
    data = Path(os.path.realpath(path.parent / named))
    if not data.is_relative_to(root):
        raise Unusable("data file is outside of SRC: not opened")
    if not data.is_file():
        raise Unusable("data file is missing")
    return (data.relative_to(root).as_posix(),)


def read_image_grid(root: Path, file: str) -> tuple[Grid, str, VolumeHeader]:
    """Read the grid of a 3D scalar scan from its header.

    Args:
        root: Path of the tree.
        file: Path of the header, relative to ``root``.

    Returns:
        The grid; a note that says which of two transforms of a NIfTI header is used, or an empty
            text; the header.

    Raises:
        Unusable: If the file cannot be read, is not 3D (a fourth axis of length 1 is allowed),
            holds several values per voxel, or its header is implausible (see
            :mod:`pretraining.imaging.integrity`).
    """
    path = root / file
    header = read_header(path)
    if header is None:
        raise Unusable("not a NIfTI, NRRD or MetaImage file")
    if header.is_analyze:
        raise Unusable("Analyze file: orientation unknown")
    check_header(header)
    require_volume(header)
    if 1 in header.size:
        raise Unusable("2D image")
    if header.is_nifti and not header.transforms:
        raise Unusable("orientation unknown (qform and sform codes are 0)")
    reader = open_image_reader(path)
    try:
        reader.ReadImageInformation()
    except Exception as error:  # raised by ITK, or by SWIG for unusual names
        if is_sheared_alone(header) or "orthonormal" in str(error):
            raise Unusable("axes are not at right angles (sheared)") from None
        check_voxels(header)  # may raise a more precise reason
        raise Unusable("damaged header or truncated file") from None
    if (components := reader.GetNumberOfComponents()) != 1:
        raise Unusable(f"{pluralize(components, 'value')} per voxel (colour or vectors)")
    dimension = len(reader.GetSize())
    direction = tuple(reader.GetDirection()[row * dimension + column] for row in range(3) for column in range(3))
    grid = Grid(
        size=reader.GetSize()[:3],
        spacing_mm=reader.GetSpacing()[:3],
        origin_mm=reader.GetOrigin()[:3],
        direction=direction,
    )
    if not all(map(math.isfinite, (*grid.spacing_mm, *grid.origin_mm, *grid.direction))):
        raise Unusable("header holds NaN or infinity")
    used = ras_affine(grid.direction, grid.spacing_mm, grid.origin_mm)
    return grid, orientation_note(header, used) if header.is_nifti else "", header


def _read_data_file(path: Path, key: re.Pattern[bytes], line: re.Pattern[bytes], ends: tuple[bytes, ...] = ()) -> str:
    """Return the data file that a text header names; empty if it names none.

    ITK and this function must never read different names, so a header is refused unless the key
    occurs once, in a line of its own, in whatever case.

    Args:
        path: File that begins with the header.
        key: Pattern of everything that might be the key.
        line: Pattern of a line with the key, whose only group is the value.
        ends: Ends of the header. Default: none, as the key itself ends a MetaImage header.
    """
    with path.open("rb") as file:
        text = file.read(TEXT_HEADER_BYTES)
        is_whole = len(text) < TEXT_HEADER_BYTES
    found = list(key.finditer(text))
    if len(found) > 1:
        raise Unusable("header names its data file more than once: not opened")
    match = line.search(text)
    if not found:
        if not is_whole and not any(end in text for end in ends):
            raise Unusable(f"header is longer than {TEXT_HEADER_BYTES >> 20} MiB: not opened")
        return ""
    if match is None:
        raise Unusable("header does not name its data file as ITK reads it: not opened")
    return match[1].strip().decode("utf-8", "replace")
