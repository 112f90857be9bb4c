"""Conversion of images of nibabel to SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

_TYPES = {"b": np.uint8, "e": np.float32, "g": np.float64}
"""Kind of numbers that ITK does not have -> the type that holds them."""


def itk_image(image: Any) -> sitk.Image:
    """Convert an image of nibabel to SimpleITK, with the same axes, values and position.

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
    if values.ndim != 3 or values.dtype.kind not in "biuf":
        raise ValueError(f"expected three axes of real numbers, found {values.dtype} of shape {values.shape}")
    values = values.astype(_TYPES.get(values.dtype.char, values.dtype.newbyteorder("=")), copy=False)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(spacing) <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise ValueError("its affine is singular or not finite")
    converted = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    converted.SetSpacing(spacing.tolist())
    converted.SetOrigin(affine[:3, 3].tolist())
    converted.SetDirection((affine[:3, :3] / spacing).flatten().tolist())
    return converted
