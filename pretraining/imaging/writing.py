"""Verified writing of images and transforms.

Files are read back before they are renamed, since ITK's writers do not report a full disk.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.atomic import NotWritten, atomic_write
from pretraining.common.completeness import Incomplete, check_complete
from pretraining.imaging.headers import read_header
from pretraining.imaging.integrity import check_header, check_voxels
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.scans import quiet_itk

_POINTS = [tuple(map(float, point)) for point in itertools.product((-211, -53, 0, 61, 197), repeat=3)]
"""Points at which a transform read back is compared with the original, mm."""
_TOLERANCE_MM = 1e-3


def write_image(path: str | Path, image: sitk.Image, *, compress: bool = True) -> None:
    """Write an image atomically.

    Args:
        path: File to write: NIfTI, NRRD or MetaImage, by its suffix.
        image: Image to write.
        compress: Whether to compress the voxels; ``.nii.gz`` is always compressed.

    Raises:
        NotWritten: If the file is incomplete on disk; an older file is unchanged then.
    """
    with atomic_write(path, verify=lambda partial: _verify_image(partial, image)) as partial:
        _write(partial, image, compress, path)


def save_image(path: str | Path, image: sitk.Image, *, compress: bool = True) -> None:
    """Write an image in place, for temporary files and files that the caller renames.

    Args:
        path: File to write, see :func:`write_image`.
        image: Image to write.
        compress: Whether to compress the voxels; ``.nii.gz`` is always compressed.

    Raises:
        NotWritten: If ITK fails, or the file is incomplete on disk.
    """
    path = Path(path)
    _write(path, image, compress, path)
    try:
        _verify_image(path, image)
    except Incomplete as reason:
        raise NotWritten(f"{path} is incomplete on disk ({reason}); is the disk full?") from None


def write_transform(path: str | Path, transform: sitk.Transform) -> None:
    """Write a transform atomically.

    Args:
        path: File to write, in a format of ITK: ``.tfm`` or ``.h5``.
        transform: Transform to write.

    Raises:
        NotWritten: If the file is incomplete on disk; an older file is unchanged then.
    """
    expected = np.array([transform.TransformPoint(point) for point in _POINTS])

    def verify(partial: Path) -> None:
        check_complete(partial)
        try:
            found = sitk.ReadTransform(str(partial))
        except RuntimeError as error:
            raise Incomplete(_last_line(error)) from None
        if not np.allclose([found.TransformPoint(point) for point in _POINTS], expected, rtol=0, atol=_TOLERANCE_MM):
            raise Incomplete("the transform read back differs from the one written")

    with atomic_write(path, verify=verify) as partial:
        try:
            with quiet_itk():
                sitk.WriteTransform(transform, str(partial))
        except RuntimeError as error:
            raise NotWritten(f"{path} could not be written ({_last_line(error)}); is the disk full?") from None


def _write(path: Path, image: sitk.Image, compress: bool, name: str | Path) -> None:
    try:
        with quiet_itk():
            sitk.WriteImage(image, str(path), useCompression=compress and path.suffix != ".nii")
    except RuntimeError as error:
        raise NotWritten(f"{name} could not be written ({_last_line(error)}); is the disk full?") from None


def _verify_image(path: Path, image: sitk.Image) -> None:
    """Raise :class:`Incomplete` unless the file contains as many voxels as the image."""
    try:
        header = read_header(path)
        if header is None:
            check_complete(path)
            return
        check_header(header)
        check_voxels(header, finite=False)
    except Rejected as reason:
        raise Incomplete(str(reason)) from None
    values = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    if header.voxels * header.values != values:
        raise Incomplete(f"{header.voxels * header.values:,} of {values:,} values are on disk")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
