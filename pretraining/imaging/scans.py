"""Scans and label maps as commands take them: files judged first, then three axes, one number in a voxel, a known place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.grids import same_grid
from pretraining.imaging.headers import VolumeHeader
from pretraining.imaging.integrity import check_file, require_volume
from pretraining.imaging.orientation import is_sheared_alone, orientation_note, ras_affine
from pretraining.imaging.rejection import Rejected, unreadable

log = logging.getLogger(__name__)

_ORTHONORMAL = 1e-3
"""Greatest error of a header's directions."""


def load_image(path: Path, *, vectors: bool = False) -> tuple[sitk.Image, str]:
    """Judge a file, then read it.

    Args:
        path: Any format of ITK's.
        vectors: Whether more will do than one volume with one real number in a voxel: a
            displacement field, say.

    Returns:
        The image, without axes of length 1 beyond the third, and a note on its orientation: which
            of two placements in a NIfTI header
        was taken, or nothing.

    Raises:
        Rejected: If it is damaged or cannot be read (see :mod:`pretraining.imaging.integrity`).
    """
    header = check_file(path)
    if header is not None and not vectors:
        require_volume(header)
    try:
        with path.open("rb"), quiet_itk():
            image = sitk.ReadImage(str(path))
    except (OSError, RuntimeError) as error:
        if header is not None and is_sheared_alone(header):
            raise Rejected(
                "its axes are not at right angles (sheared); resample it to such a grid, or mend its header"
            ) from None
        raise unreadable(error) from None
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = image[..., 0]
    return image, "" if header is None else _orientation(header, image)


def read_image(path: str | Path, role: str, *, vectors: bool = False) -> sitk.Image:
    """Read a file that a user named.

    Args:
        path: Any format of ITK's.
        role: What the image is, for messages: ``fixed``, ``moving mask``, ...
        vectors: As for :func:`load_image`.

    Raises:
        InputError: If there is no such file, or it is damaged or cannot be read.
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
    """The scan as float32.

    Args:
        image: As read.
        role: What it is, for messages.

    Raises:
        InputError: For anything but three axes of at least 2 voxels and one channel, directions
            that are not at right angles, voxels that are not numbers, or a constant image.
    """
    image = _checked_geometry(image, role)
    image = sitk.Cast(image, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(image)
    if wrong := int(values.size - np.isfinite(values).sum()):
        raise InputError(
            f"{role}: {wrong} of {values.size} voxels are NaN or infinite; replace them, e.g. by the value of air"
        )
    if values.min() == values.max():
        raise InputError(f"{role}: every voxel is {values.flat[0]:g}; there is nothing to see in a constant image")
    return image


def validate_labels(image: sitk.Image, scan: sitk.Image, role: str) -> sitk.Image:
    """Labels or a mask as int32 on the grid of their scan; resampled by nearest neighbour, and said so, if they come on another.

    Args:
        image: As read.
        scan: Checked.
        role: What the labels are, for messages.

    Raises:
        InputError: If they are not three-dimensional with one channel, hold fractions, or nothing
            of them lies on the scan.
    """
    image = _checked_geometry(image, role)
    if image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        values = sitk.GetArrayViewFromImage(image)
        if not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
            raise InputError(f"{role}: expected whole numbers, found others; is this a probability map or a scan?")
    image = sitk.Cast(image, sitk.sitkInt32)
    if not same_grid(image, scan):
        log.info(
            "%s: on another grid than its scan (%s against %s voxels); resampled to it",
            role,
            image.GetSize(),
            scan.GetSize(),
        )
        image = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if not sitk.GetArrayViewFromImage(image).any():
        raise InputError(f"{role}: empty on the grid of its scan; check that it belongs to that scan, or leave it out")
    return image


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Leave out ITK's own warnings, several lines each on standard error: what matters is checked and said here."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _orientation(header: VolumeHeader, image: sitk.Image) -> str:
    if not header.is_nifti or image.GetDimension() != 3:
        return ""
    return orientation_note(header, ras_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin()))


def _checked_geometry(image: sitk.Image, role: str) -> sitk.Image:
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(
            f"{role}: expected three axes of at least 2 voxels, found {image.GetSize()}; name one 3D volume"
        )
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"{role}: expected one number in a voxel, found {image.GetPixelIDTypeAsString()}; extract one channel"
        )
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if np.abs(direction.T @ direction - np.eye(3)).max() > _ORTHONORMAL:
        kind = "singular" if abs(np.linalg.det(direction)) < _ORTHONORMAL else "sheared"
        raise InputError(
            f"{role}: its direction matrix is {kind} ({np.round(direction, 3).tolist()}), expected axes at right angles; "
            "resample it to such a grid, or mend its header"
        )
    return image
