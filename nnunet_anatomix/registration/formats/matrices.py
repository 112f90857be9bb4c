"""Conversion between 4x4 matrices in RAS, image headers and transforms of ITK."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from pretraining.imaging.orientation import ras_affine

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def vox_to_ras(image: sitk.Image) -> np.ndarray:
    """Return the (4, 4) matrix from voxel indices of an image to RAS, mm."""
    return ras_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())


def transform_from_ras(matrix: np.ndarray) -> sitk.AffineTransform:
    """Convert a matrix between RAS points to a transform of ITK, between LPS points.

    Args:
        matrix: (4, 4), mm.
    """
    return transform_from_lps(_LPS_RAS @ matrix @ _LPS_RAS)


def transform_from_lps(matrix: np.ndarray) -> sitk.AffineTransform:
    """Convert a matrix between LPS points to a transform of ITK.

    Args:
        matrix: (4, 4), mm.
    """
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.asarray(matrix)[:3, :3].flatten().tolist())
    transform.SetTranslation(np.asarray(matrix)[:3, 3].tolist())
    return transform


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """Return the (4, 4) matrix between LPS points of a linear transform, mm."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([transform.TransformPoint(axis) for axis in np.eye(3).tolist()]).T - origin[:, None]
    matrix[:3, 3] = origin
    return matrix
