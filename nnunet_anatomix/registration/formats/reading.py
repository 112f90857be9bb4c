"""Recognition of transform files of other programs by their content."""

from __future__ import annotations

import logging
from pathlib import Path

import SimpleITK as sitk

from nnunet_anatomix.registration.formats.elastix import elastix_transform, is_elastix
from nnunet_anatomix.registration.formats.freesurfer import is_lta, lta_transform, parse_lta
from nnunet_anatomix.registration.formats.fsl import flirt_transform, parse_flirt
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

_LONGEST_BYTES = 10_000_000
"""Length of the longest file that is read; text files of transforms are shorter."""
_REFUSED = {
    ".dat": ("a register.dat of FreeSurfer", "convert it with lta_convert --inreg to .lta"),
    ".m3z": ("a deformation of FreeSurfer", "write it as a displacement field with mri_warp_convert"),
    ".1d": ("a matrix of AFNI", "convert it to a transform of ITK with cat_matvec and c3d_affine_tool"),
    ".xfm": ("a transform of MINC", "convert it to .lta with lta_convert --inmni"),
    ".x5": ("a transform in the format X5", "convert it to a transform of ITK with nitransforms"),
}
"""Ending -> what the file is, and what to do."""


def read_foreign(path: Path, role: str, scans: tuple[sitk.Image, sitk.Image] | None) -> sitk.Transform | None:
    """Read a transform of FSL, FreeSurfer or elastix.

    Args:
        path: Any existing file.
        role: Name of the transform for messages.
        scans: Fixed and moving scan, if known; FSL's matrices need them.

    Returns:
        Transform from points of the fixed to points of the moving scan; None if the file has none
        of these formats.

    Raises:
        InputError: If it has one of them, and cannot be used; or another one that is known by name.
    """
    where = f"{role}: {path}"
    text = _read_text(path)
    if text is not None:
        if is_lta(text):
            return lta_transform(parse_lta(text, where), scans, where)
        if is_elastix(text):
            return elastix_transform(path, text, where)
        matrix = parse_flirt(text)
        if matrix is not None:
            if scans is None:
                raise InputError(
                    f"{where} is a matrix of FSL, which is valid for two scans only; use it with register --init, "
                    "and apply the transforms written there"
                )
            log.info("%s: read as a matrix of FSL's FLIRT, from the moving to the fixed scan", where)
            return flirt_transform(matrix, *scans, where)
    if path.suffix.lower() in _REFUSED:
        what, advice = _REFUSED[path.suffix.lower()]
        raise InputError(
            f"{where} is {what}, expected a transform of ITK, ANTs, FSL, FreeSurfer (.lta) or elastix; {advice}"
        )
    return None


def is_flirt(path: Path) -> bool:
    """Return whether a file is a matrix of FSL, which counts voxels as they are stored."""
    text = _read_text(path) if path.is_file() else None
    return text is not None and parse_flirt(text) is not None


def _read_text(path: Path) -> str | None:
    """Return the content of a text file; None for others, and for transforms of ITK."""
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            return None
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text or text.startswith("#Insight Transform File") else text
