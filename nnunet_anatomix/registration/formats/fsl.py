"""Matrices of FSL's FLIRT."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.formats.matrices import transform_from_ras, vox_to_ras
from pretraining.common.errors import InputError


def parse_flirt(text: str) -> np.ndarray | None:
    """Parse the matrix of FLIRT.

    Args:
        text: Content of a file.

    Returns:
        (4, 4) from FSL coordinates of the moving scan to those of the fixed scan, mm; None if the
        text is anything else than four lines of four numbers, the last 0 0 0 1.
    """
    try:
        rows = [[float(word) for word in line.split()] for line in text.splitlines() if line.strip()]
    except ValueError:
        return None
    if len(rows) != 4 or any(len(row) != 4 for row in rows) or rows[3] != [0, 0, 0, 1]:
        return None
    return np.array(rows)


def flirt_transform(matrix: np.ndarray, fixed: sitk.Image, moving: sitk.Image, where: str) -> sitk.Transform:
    """Convert the matrix of FLIRT to a transform of ITK.

    Args:
        matrix: (4, 4) from moving to fixed, as FLIRT writes it with ``-omat``.
        fixed: Reference of FLIRT (``-ref``).
        moving: Input of FLIRT (``-in``).
        where: Role and file, for messages.

    Returns:
        Transform from points of the fixed scan to points of the moving scan.

    Raises:
        InputError: If the matrix is singular.

    Notes:
        FSL coordinates are voxel indices in mm along the stored axes; the first axis is reversed if
        the header's matrix to RAS has a positive determinant. They say nothing of the header's
        origin and directions, so that the matrix is valid for these two files only.
    """
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(f"{where} is a singular matrix, expected one with an inverse; create it again")
    fixed_to_moving = np.linalg.inv(matrix @ _ras_to_fsl(moving)) @ _ras_to_fsl(fixed)
    return transform_from_ras(fixed_to_moving)


def _ras_to_fsl(image: sitk.Image) -> np.ndarray:
    to_ras = vox_to_ras(image)
    to_fsl = np.diag([*image.GetSpacing(), 1.0])
    if np.linalg.det(to_ras[:3, :3]) > 0:
        to_fsl[0, 0] *= -1
        to_fsl[0, 3] = (image.GetSize()[0] - 1) * image.GetSpacing()[0]
    return to_fsl @ np.linalg.inv(to_ras)
