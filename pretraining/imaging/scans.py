"""Reading and validation of scans and label maps for commands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.conversion import read_by_nibabel
from pretraining.imaging.grids import same_grid
from pretraining.imaging.integrity import check_file, require_volume
from pretraining.imaging.mgh_header import MGH_SUFFIXES
from pretraining.imaging.orientation import is_sheared_alone, orientation_note, ras_affine
from pretraining.imaging.rejection import Rejected, unreadable
from pretraining.imaging.volume_header import VolumeHeader

log = logging.getLogger(__name__)

_ORTHONORMAL = 1e-3
"""Largest error of a header's direction matrix."""


def load_image(path: Path, *, vectors: bool = False) -> tuple[sitk.Image, str]:
    """Validate and read an image file.

    Args:
        path: File of any format that ITK reads, or ``.mgz`` of FreeSurfer.
        vectors: Whether to accept other images than a single volume with one real number per voxel,
            for example displacement fields.

    Returns:
        The image, without axes of length 1 beyond the third, and a note on its orientation: which
        of two different placements in a NIfTI header was used, else an empty text.

    Raises:
        Rejected: If it is damaged or cannot be read (see :mod:`pretraining.imaging.integrity`).
    """
    header = check_file(path)
    if header is not None and not vectors:
        require_volume(header)
    try:
        with path.open("rb"), quiet_itk():
            image = read_by_nibabel(path) if path.name.lower().endswith(MGH_SUFFIXES) else sitk.ReadImage(str(path))
    except (OSError, RuntimeError) as error:
        if header is not None and is_sheared_alone(header):
            raise Rejected(
                "its axes are not at right angles (sheared); resample it to a grid without shear, or correct its header"
            ) from None
        raise unreadable(error) from None
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = image[..., 0]
    return image, "" if header is None else _note_orientation(header, image)


def read_image(path: str | Path, role: str, *, vectors: bool = False) -> sitk.Image:
    """Read an image file that the user named.

    Args:
        path: File of any format that ITK reads.
        role: Name of the image for messages: ``fixed``, ``moving mask``, ...
        vectors: Whether to accept vector images, see :func:`load_image`.

    Raises:
        InputError: If the file does not exist, is damaged or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{role}: no such file {path}")
    try:
        image, note = load_image(path, vectors=vectors)
    except Rejected as reason:
        raise InputError(f"{role}: {path}: {reason}") from None
    if note:
        log.warning("%s: %s: %s", role, path, note)
    return image


def validate_scan(image: sitk.Image, role: str) -> sitk.Image:
    """Validate a scan and convert it to float32.

    Args:
        image: Image from :func:`read_image`.
        role: Name of the image for messages.

    Returns:
        The scan as float32.

    Raises:
        InputError: If it has not three axes of at least 2 voxels and one channel, or is sheared,
            constant, or contains NaN or infinity.
    """
    check_geometry(image, role)
    image = sitk.Cast(image, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(image)
    if wrong := int(values.size - np.isfinite(values).sum()):
        raise InputError(
            f"{role}: {wrong} of {values.size} voxels are NaN or infinite; replace them, e.g. by the value of air"
        )
    if values.min() == values.max():
        raise InputError(f"{role}: expected a scan, found a constant image (every voxel is {values.flat[0]:g})")
    return image


def validate_labels(image: sitk.Image, scan: sitk.Image, role: str) -> sitk.Image:
    """Validate labels or a mask and convert them to integers on the grid of their scan.

    Labels on another grid are resampled by nearest neighbour, which is logged.

    Args:
        image: Image from :func:`read_image`.
        scan: Scan from :func:`validate_scan`.
        role: Name of the labels for messages.

    Returns:
        The labels as int32, or as int64 if their values need it.

    Raises:
        InputError: If they have not three axes and one channel, contain fractions, or are empty on
            the grid of the scan.
    """
    check_geometry(image, role)
    if image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        values = sitk.GetArrayViewFromImage(image)
        if not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
            raise InputError(f"{role}: expected whole numbers, found fractions; is this a probability map or a scan?")
    values = sitk.GetArrayViewFromImage(image)
    fits = values.min() >= -(2**31) and values.max() < 2**31
    image = sitk.Cast(image, sitk.sitkInt32 if fits else sitk.sitkInt64)
    if not same_grid(image, scan):
        log.info(
            "%s: resampled to the grid of its scan (from %s to %s voxels)",
            role,
            image.GetSize(),
            scan.GetSize(),
        )
        image = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if not sitk.GetArrayViewFromImage(image).any():
        raise InputError(f"{role}: empty on the grid of its scan; check that it belongs to that scan, or omit it")
    return image


def check_geometry(image: sitk.Image, role: str) -> None:
    """Refuse what is not a single volume on a grid with right angles.

    Args:
        image: Image from :func:`read_image`.
        role: Name of the image for messages.

    Raises:
        InputError: If it is no image of SimpleITK, has not three axes of at least 2 voxels and one
            real number per voxel, or is sheared.
    """
    if not isinstance(image, sitk.Image):
        raise InputError(
            f"{role}: expected an image of SimpleITK, found {type(image).__module__}.{type(image).__name__}; "
            "convert it, e.g. by SimpleITK.GetImageFromArray, and set spacing, origin and direction"
        )
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(
            f"{role}: expected three axes of at least 2 voxels, found {image.GetSize()}; choose one 3D volume"
        )
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"{role}: expected one number per voxel, found {image.GetPixelIDTypeAsString()}; extract one channel"
        )
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if np.abs(direction.T @ direction - np.eye(3)).max() > _ORTHONORMAL:
        kind = "singular" if abs(np.linalg.det(direction)) < _ORTHONORMAL else "sheared"
        raise InputError(
            f"{role}: its direction matrix is {kind} ({np.round(direction, 3).tolist()}), "
            "expected axes at right angles; resample it to such a grid, or correct its header"
        )


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Suppress ITK's own warnings, several lines each on standard error.

    The callers detect and report the defects that matter.
    """
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _note_orientation(header: VolumeHeader, image: sitk.Image) -> str:
    if not header.is_nifti or image.GetDimension() != 3:
        return ""
    return orientation_note(header, ras_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin()))
