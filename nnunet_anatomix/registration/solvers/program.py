"""Solver that runs another program, as a JSON file describes it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.programs.program import Program
from nnunet_anatomix.registration.transforms import read_transform
from nnunet_anatomix.registration.warp import displacement_of
from pretraining.common.child import run_child
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.imaging.grids import index_to_mm, resample_image, tensor_image
from pretraining.imaging.writing import save_image

log = logging.getLogger(__name__)


def program_displacement(
    fixed: Tensor, moving: Tensor, known: tuple[Tensor | None, Tensor | None], grid: sitk.Image, program: Program
) -> tuple[Tensor, sitk.Image]:
    """Register two images with another program.

    Args:
        fixed: (X, Y, Z) on ``grid``.
        moving: (X, Y, Z) on ``grid``.
        known: Of both images, (X, Y, Z) in {0, 1}, 1 where the image counts; None for everywhere.
        grid: Image on the grid.
        program: The program.

    Returns:
        The displacement, (3, X, Y, Z) float32, voxels of the grid that is returned with it, which
        is the program's own if it accepts only one size.

    Raises:
        CommandFailed: If the program fails, or its transform is missing or of another grid. Its
            files are kept then.

    Notes:
        The program gets images with intensities in [0, 1].
    """
    own = grid if program.size is None else grid_of_size(grid, program.size)
    folder = Path(mkdtemp(prefix="anatomix-program-"))
    try:
        paths = {role: folder / f"{role}.nii.gz" for role in ("fixed", "moving", "fixed_mask", "moving_mask")}
        for role, image, mask in (("fixed", fixed, known[0]), ("moving", moving, known[1])):
            scaled = (image - image.min()) / (image.max() - image.min()).clamp_min(torch.finfo(image.dtype).tiny)
            inside = torch.ones_like(image) if mask is None else (mask > 0).float()
            save_image(paths[role], resample_image(tensor_image(scaled.cpu(), grid), own))
            on_own = resample_image(tensor_image(inside.cpu(), grid), own, nearest=True)
            save_image(paths[f"{role}_mask"], sitk.Cast(on_own, sitk.sitkUInt8))
        out = folder / "out"
        out.mkdir()
        words = program.words({role: str(path) for role, path in paths.items()} | {"out": str(out)})
        run_child(words, os.environ, folder / "log.txt")
        try:
            displacement = read_displacement(out / program.transform, program.kind, own)
        except InputError as error:
            raise CommandFailed(f"{program.name}: {error} (files are in {folder})") from None
    except (KeyboardInterrupt, Interrupted):
        rmtree(folder, ignore_errors=True)
        raise
    except CommandFailed:
        log.info("files of %s are kept in %s", program.name, folder)
        raise
    rmtree(folder, ignore_errors=True)
    return displacement, own


def read_displacement(path: Path, kind: str, grid: sitk.Image) -> Tensor:
    """Read the transform that a program wrote.

    Args:
        path: File.
        kind: Its meaning, see :class:`~nnunet_anatomix.registration.programs.program.Program`.
        grid: Image on the grid of the fixed image.

    Returns:
        (3, X, Y, Z) float32, voxels of ``grid``.

    Raises:
        InputError: If the file is missing, cannot be read, or is of another grid.
    """
    if not path.is_file():
        raise InputError(f"expected a transform at {path}, found none; correct 'transform' in the JSON file")
    if kind == "itk":
        return displacement_of(read_transform(path, "transform", "correct 'transform' in the JSON file"), grid)
    try:
        image: Any = nibabel.load(path)
        vectors = np.squeeze(np.asanyarray(image.dataobj)).astype(np.float32)
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from None
    if vectors.shape != (*grid.GetSize(), 3):
        raise InputError(f"expected a displacement field of {(*grid.GetSize(), 3)}, found {vectors.shape} in {path}")
    displacement = vectors.transpose(3, 0, 1, 2)
    if kind == "ras_mm":
        lps = displacement * np.array([-1, -1, 1], np.float32)[:, None, None, None]
        displacement = np.einsum("ij,jxyz->ixyz", np.linalg.inv(index_to_mm(grid)), lps)
    return torch.from_numpy(np.ascontiguousarray(displacement, dtype=np.float32))


def grid_of_size(grid: sitk.Image, size: tuple[int, int, int]) -> sitk.Image:
    """Return a grid of cubes with this number of voxels, centred on a grid that it covers.

    Args:
        grid: Image on the grid to cover.
        size: Number of voxels along each axis.

    Returns:
        Image on the new grid, with the axes of ``grid``.
    """
    sides_mm = np.multiply(grid.GetSize(), grid.GetSpacing())
    spacing = float((sides_mm / size).max())
    cubes = sitk.Image(size, sitk.sitkUInt8)
    cubes.SetSpacing([spacing] * 3)
    cubes.SetDirection(grid.GetDirection())
    centre = np.array(grid.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in grid.GetSize()]))
    half = np.reshape(grid.GetDirection(), (3, 3)) @ ((np.array(size) - 1) / 2 * spacing)
    cubes.SetOrigin((centre - half).tolist())
    return cubes
