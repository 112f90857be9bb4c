"""Transforms of a registration under the names that ANTs gives to its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import SimpleITK as sitk

from nnunet_anatomix.registration.formats.matrices import matrix_of, transform_from_lps
from pretraining.imaging.writing import write_transform

AFFINE, WARP, INVERSE_WARP = "0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"
ANTS_NAMES = (AFFINE, WARP, INVERSE_WARP)


def write_ants_names(out: Path, start: sitk.Transform, field: str, inverse_field: str) -> None:
    """Write a linear start, and the fields beside it, under the names of ``antsRegistration``.

    Args:
        out: Folder with both fields.
        start: Transform from fixed to moving points. If it is not linear, nothing is written: ANTs
            has no names for that.
        field: Name of the displacement field without the start.
        inverse_field: Name of its inverse.

    Notes:
        The fields are hard links where the file system has them, so that they need no space.
    """
    if not start.IsLinear():
        return
    write_transform(out / AFFINE, transform_from_lps(matrix_of(start)))
    for source, name in ((field, WARP), (inverse_field, INVERSE_WARP)):
        try:
            os.link(out / source, out / name)
        except OSError:
            shutil.copyfile(out / source, out / name)
