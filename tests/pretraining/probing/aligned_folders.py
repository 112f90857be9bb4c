"""Small test data: a brain in several modalities, and limbs in nnU-Net's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LIMB_SPACING_MM = (1.5, 1.5, 3.0)
"""Voxel spacing, (x, y, z), mm."""


def write_image(path: Path, voxels: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write (Z, Y, X) voxels as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def brain_folder(
    folder: Path, modalities: tuple[str, ...] = ("t2", "pd", "ct"), shape: tuple[int, int, int] = (13, 14, 12)
) -> np.ndarray:
    """Write a brain of eight boxes with grey values of their own; return the regions."""
    axes = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij")
    regions = (
        sum(
            (axis >= size // 2).astype(np.uint8) << bit
            for bit, (axis, size) in enumerate(zip(axes, shape, strict=True))
        )
        + 1
    )
    for axis, size in zip(axes, shape, strict=True):
        regions[(axis < 2) | (axis >= size - 2)] = 0
    rng = np.random.default_rng(0)
    for name in ("t1", *modalities):
        grey = np.concatenate([[0], rng.permutation(8) * 10 + 20]).astype(np.float32)
        write_image(folder / f"{name}.nii.gz", grey[regions])
    write_image(folder / "labels_neuromorphometrics.nii.gz", regions.astype(np.uint8))
    return regions


def limbs_folder(folder: Path, cases: tuple[str, ...] = ("a",), channels: tuple[str, str] = ("CT", "T1")) -> None:
    """Write limbs of muscle in air; the MR images lack their last slices."""
    for case in cases:
        ct = np.full((12, 24, 24), -1000, np.int16)
        ct[:, 6:18, 6:18] = 50
        mr = np.where(ct > 0, 200, 0).astype(np.int16)
        mr[9:] = 0
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", ct, LIMB_SPACING_MM)
        write_image(folder / "imagesTr" / f"{case}_0001.nii.gz", mr, LIMB_SPACING_MM)
    names = {str(number): name for number, name in enumerate(channels)}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": names, "file_ending": ".nii.gz"}))
