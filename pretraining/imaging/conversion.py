"""Conversion of arrays, and of images of nibabel, to images of SimpleITK."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from pretraining.imaging.rejection import unreadable

_TYPES = {"?": np.uint8, "e": np.float32, "g": np.float64}
"""Character of a type that ITK does not have -> the type that holds its numbers."""


def array_image(values: np.ndarray) -> sitk.Image:
    """Convert an array to an image with spacing 1 mm, at the origin.

    Args:
        values: (X, Y, Z), real numbers or bool.

    Returns:
        The image; bool becomes uint8, half precision float32, extended precision float64.

    Raises:
        ValueError: If it has other axes or values.
    """
    if values.ndim != 3 or values.dtype.kind not in "biuf" or 0 in values.shape:
        raise ValueError(f"expected three axes of real numbers, found {values.dtype} of shape {values.shape}")
    plain = values.astype(_TYPES.get(values.dtype.char, values.dtype.newbyteorder("=")), copy=False)
    return sitk.GetImageFromArray(np.ascontiguousarray(plain.transpose(2, 1, 0)))


def itk_image(image: Any) -> sitk.Image:
    """Convert an image of nibabel, with the same axes, values and position.

    Args:
        image: Image of nibabel with three axes, or more of length 1, and real numbers.

    Returns:
        The image; its direction is not orthonormal if the affine is sheared.

    Raises:
        ValueError: If it has other axes or numbers, or a singular affine.
    """
    values = np.asanyarray(image.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    converted = array_image(values)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(spacing) <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise ValueError("its affine is singular or not finite")
    converted.SetSpacing(spacing.tolist())
    converted.SetOrigin(affine[:3, 3].tolist())
    converted.SetDirection((affine[:3, :3] / spacing).flatten().tolist())
    return converted


def read_by_nibabel(path: Path) -> sitk.Image:
    """Read a file in a format of nibabel that ITK lacks, and whose header was checked.

    Args:
        path: Volume of FreeSurfer.

    Raises:
        Rejected: If nibabel cannot read it.
    """
    import nibabel

    try:
        return itk_image(nibabel.load(path))
    except (OSError, ValueError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise unreadable(error) from None
