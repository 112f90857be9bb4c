"""Scans that are no DICOM: NIfTI, NRRD and MetaImage, judged by their headers, detached data included."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

import SimpleITK as sitk

from nnunet_anatomix.clinical.phrases import Unusable, count_phrase
from pretraining.imaging.grids import Grid
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_header, check_voxels, require_volume
from pretraining.imaging.orientation import is_sheared_alone, orientation_note, ras_affine

READERS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".hdr": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
_TEXT_BYTES = 1 << 16
"""Of a detached header."""


def image_ending(name: str) -> str:
    """The ending that says which reader a file needs; nothing for other files."""
    lower = name.lower()
    return max((ending for ending in READERS if lower.endswith(ending)), key=len, default="")


def stem(file: str) -> str:
    name = PurePosixPath(file).name
    return name[: len(name) - len(image_ending(name))]


def image_reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[image_ending(path.name)])
    reader.SetFileName(str(path))
    return reader


def data_files(root: Path, file: str) -> tuple[str, ...]:
    """The files with a detached header's voxels, relative to ``root``; nothing if the voxels follow the header.

    Raises:
        Unusable: If they lie outside ``root``, are missing, or are a list or pattern of files.
    """
    ending = image_ending(file)
    path = root / file
    if ending == ".hdr":
        beside = [f"{stem(file)}.img", f"{stem(file)}.img.gz"]
        named = next((name for name in beside if (path.parent / name).is_file()), beside[0])
    elif ending in (".mhd", ".mha"):
        named = _header_value(path, ("elementdatafile",), "=")
        if named.upper() == "LOCAL":
            return ()
    elif ending in (".nhdr", ".nrrd"):
        named = _header_value(path, ("data file", "datafile"), ":")
        if not named and ending == ".nrrd":
            return ()
    else:
        return ()
    if not named:
        raise Unusable("header names no file with voxels")
    if (
        named.upper().startswith("LIST")
        or "%" in named
        or (len(named.split()) > 1 and not (path.parent / named).is_file())
    ):
        raise Unusable("voxels in several files, or a file that is missing")
    data = Path(os.path.realpath(path.parent / named))
    if not data.is_relative_to(root):
        raise Unusable("header names a file with voxels outside of the folder: not opened")
    if not data.is_file():
        raise Unusable("file with the voxels is missing")
    return (data.relative_to(root).as_posix(),)


def image_grid(root: Path, file: str) -> tuple[Grid, str]:
    """Read the grid of a 3D scan of single values from its header alone.

    Args:
        root: Folder that all is below.
        file: Path of the header, relative to it.

    Returns:
        The grid, and a note: which of two placements in a NIfTI header is taken, or nothing.

    Raises:
        Unusable: If the file cannot be read, is not 3D (a fourth axis of length 1 is), holds
            several values per voxel, or its header is not sane (see
            :mod:`pretraining.imaging.integrity`).
    """
    path = root / file
    header = read_header(path)
    if header is None:
        raise Unusable("no NIfTI, NRRD or MetaImage file")
    if header.is_analyze:
        raise Unusable("Analyze file: says nothing about orientation")
    check_header(header)
    require_volume(header)
    if 1 in header.size:
        raise Unusable("2D image")
    if header.is_nifti and not header.transforms:
        raise Unusable("header says nothing about orientation (qform and sform codes are 0)")
    reader = image_reader(path)
    try:
        reader.ReadImageInformation()
    except Exception as error:  # ITK's, or SWIG's for strange names
        if is_sheared_alone(header) or "orthonormal" in str(error):
            raise Unusable("axes are not at right angles (sheared)") from None
        check_voxels(header)  # knows the reason, perhaps
        raise Unusable("damaged header, or file is truncated") from None
    if (components := reader.GetNumberOfComponents()) != 1:
        raise Unusable(f"{count_phrase(components, 'value')} per voxel (colour or vectors)")
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
    return grid, orientation_note(
        header, ras_affine(grid.direction, grid.spacing_mm, grid.origin_mm)
    ) if header.is_nifti else ""


def _header_value(path: Path, keys: tuple[str, ...], separator: str) -> str:
    with path.open("rb") as file:
        text = file.read(_TEXT_BYTES)
    for line in text.split(b"\n"):
        key, found, value = line.partition(separator.encode())
        if found and key.strip().lower().decode("latin-1") in keys:
            return value.strip().decode("utf-8", "replace")
        if not line.strip() and separator == ":":  # voxels follow
            break
    return ""
