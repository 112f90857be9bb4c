"""Scans as registration takes them: three axes, one channel, numbers in every voxel, a header that says where they lie."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.errors import InputError

log = logging.getLogger(__name__)

_ORTHONORMAL = 1e-3
"""Greatest error of a header's directions."""
_SAME_GRID = 1e-3
"""Greatest difference of two headers, voxels."""
_GZIP = b"\x1f\x8b"
_AT_ONCE = 2**20
"""Bytes of a file."""


def read_image(path: str | Path, role: str) -> sitk.Image:
    """Read a file as it is.

    Parameters
    ----------
    path : any format of ITK's.
    role : what the image is, for messages: ``fixed``, ``moving mask``, ...

    Raises
    ------
    InputError
        If there is no such file, ITK cannot read it, or it is cut off.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{role}: no such file {path}")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
        raise InputError(f"{role}: ITK cannot read {path}, it says: {reason}") from None
    if path.name.lower().endswith((".nii", ".nii.gz")) and image.HasMetaDataKey("dim[0]") and _is_cut_off(path, image):
        raise InputError(f"{role}: {path} ends before its last voxel; copy it, or download it, anew")
    return image


def checked_scan(image: sitk.Image, role: str) -> sitk.Image:
    """The scan as float32.

    Raises
    ------
    InputError
        For anything but three axes of at least 2 voxels and one channel, directions that are not at right angles, voxels that are not
        numbers, or a constant image.
    """
    image = _checked_geometry(image, role)
    image = sitk.Cast(image, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(image)
    if wrong := int(values.size - np.isfinite(values).sum()):
        raise InputError(f"{role}: {wrong} of {values.size} voxels are NaN or infinite; replace them, e.g. by the value of air")
    if values.min() == values.max():
        raise InputError(f"{role}: every voxel is {values.flat[0]:g}; there is nothing to see in a constant image")
    return image


def checked_labels(image: sitk.Image, scan: sitk.Image, role: str) -> sitk.Image:
    """Labels or a mask as int32 on the grid of their scan; resampled by nearest neighbour, and said so, if they come on another.

    Raises
    ------
    InputError
        If they are not three-dimensional with one channel, hold fractions, or nothing of them lies on the scan.
    """
    image = _checked_geometry(image, role)
    if image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        values = sitk.GetArrayViewFromImage(image)
        if not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
            raise InputError(f"{role}: expected whole numbers, found others; is this a probability map or a scan?")
    image = sitk.Cast(image, sitk.sitkInt32)
    if not same_grid(image, scan):
        log.info("%s: on another grid than its scan (%s against %s voxels); resampled to it", role, image.GetSize(), scan.GetSize())
        image = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if not sitk.GetArrayViewFromImage(image).any():
        raise InputError(f"{role}: empty on the grid of its scan; check that it belongs to that scan, or leave it out")
    return image


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether two images have their voxels at the same places, to a thousandth of a voxel."""
    if one.GetSize() != other.GetSize():
        return False
    corners = [[0, 0, 0], *(np.eye(3, dtype=int) * (np.array(one.GetSize()) - 1)).tolist()]
    there = [other.TransformPhysicalPointToContinuousIndex(one.TransformIndexToPhysicalPoint(corner)) for corner in corners]
    return bool(np.abs(np.subtract(there, corners)).max() < _SAME_GRID)


def _is_cut_off(path: Path, image: sitk.Image) -> bool:
    """Whether a NIfTI holds less than its header says, or other bytes than were compressed: ITK makes up the rest without a word."""
    sides = [int(image.GetMetaData(f"dim[{axis}]")) for axis in range(1, int(image.GetMetaData("dim[0]")) + 1)]
    expected = float(image.GetMetaData("vox_offset")) + math.prod(sides) * int(image.GetMetaData("bitpix")) / 8
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            return path.stat().st_size < expected
    try:
        with gzip.open(path) as file:
            return sum(len(part) for part in iter(lambda: file.read(_AT_ONCE), b"")) < expected
    except (EOFError, OSError, zlib.error):
        return True


def _checked_geometry(image: sitk.Image, role: str) -> sitk.Image:
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(f"{role}: expected three axes of at least 2 voxels, found {image.GetSize()}; name one 3D volume")
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{role}: expected one number in a voxel, found {image.GetPixelIDTypeAsString()}; extract one channel")
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if np.abs(direction.T @ direction - np.eye(3)).max() > _ORTHONORMAL:
        kind = "singular" if abs(np.linalg.det(direction)) < _ORTHONORMAL else "sheared"
        raise InputError(
            f"{role}: its direction matrix is {kind} ({np.round(direction, 3).tolist()}), expected axes at right angles; "
            "resample it to such a grid, or mend its header"
        )
    return image
