"""Tiny downloads of every dataset, with the published file names and layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SIDES = (12, 10, 9)


def names(key: str, count: int) -> Iterator[tuple[str, str]]:
    """Return relative paths of image and label of ``count`` cases, for each part."""
    for number in range(1, count + 1):
        if key == "msd-heart":
            yield f"imagesTr/la_{number:03d}.nii.gz", f"labelsTr/la_{number:03d}.nii.gz"
        elif key == "promise12":
            for part in ("training_data", "test_data", "livechallenge_test_data"):
                yield f"{part}/Case{number - 1:02d}.mhd", f"{part}/Case{number - 1:02d}_segmentation.mhd"
        elif key == "l2r-abdomen":
            for modality in ("0000", "0001"):
                file = f"AbdomenMRCT_{number:04d}_{modality}.nii.gz"
                yield f"imagesTr/{file}", f"labelsTr/{file}"
        elif key == "feta":
            stem = f"sub-{number:03d}/anat/sub-{number:03d}_rec-{'mial' if number <= 40 else 'irtk'}"
            yield f"{stem}_T2w.nii.gz", f"{stem}_dseg.nii.gz"
        elif key == "amos-ct":
            for part in ("Tr", "Va"):
                yield f"images{part}/amos_{number:04d}.nii.gz", f"labels{part}/amos_{number:04d}.nii.gz"
        elif key == "neurite-oasis":
            folder = f"OASIS_OAS1_{number:04d}_MR1"
            yield f"{folder}/aligned_norm.nii.gz", f"{folder}/aligned_seg35.nii.gz"
        else:
            for modality in ("ct", "mr"):
                stem = f"{modality}_train/{modality}_train_{1000 + number}"
                yield f"{stem}_image.nii.gz", f"{stem}_label.nii.gz"


def empty_download(folder: Path, key: str, count: int) -> Path:
    """Write empty files with the right names."""
    for pair in names(key, count):
        for name in pair:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def download(
    folder: Path, key: str, count: int, *, values: tuple[int, ...] = (0, 1), sides: tuple[int, int, int] = SIDES
) -> Path:
    """Write noisy scans of a block, labels with the last of ``values`` in the block, and masks."""
    for number, (image, label) in enumerate(names(key, count)):
        write(folder / image, scan(number, sides))
        write(folder / label, labels(values, sides))
        if key == "l2r-abdomen":
            write(folder / image.replace("images", "masks"), labels((0, 1), sides))
    return folder


def scan(seed: int, sides: tuple[int, int, int] = SIDES) -> sitk.Image:
    """Return a bright block in noise, int16."""
    values = np.random.default_rng(seed).normal(0, 20, sides[::-1])
    values[3:7, 3:7, 3:8] += 300
    return placed(values.astype(np.int16))


def labels(values: tuple[int, ...], sides: tuple[int, int, int] = SIDES) -> sitk.Image:
    """Return labels with the last of ``values`` in a block, and one voxel of each other value."""
    array = np.full(sides[::-1], values[0], np.int16)
    array[3:7, 3:7, 3:8] = values[-1]
    for place, value in enumerate(values[1:-1]):
        array[0, place // sides[0], place % sides[0]] = value
    return placed(array)


def placed(array: np.ndarray) -> sitk.Image:
    """Return an image on an anisotropic grid away from the origin."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.25, 2.0))
    image.SetOrigin((-7.0, 3.0, 11.0))
    return image


def write(path: Path, image: sitk.Image) -> None:
    """Write an image and its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def stamp(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file, to check that none changes."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
