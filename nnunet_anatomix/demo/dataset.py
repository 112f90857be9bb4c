"""Dataset of the demo in nnU-Net's format, and a pair of scans of different contrast."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from nnunet_anatomix.demo.anatomy import ORGANS, SPACING_MM, make_subject
from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock, is_vacant

log = logging.getLogger(__name__)

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_AnatomixDemo"
TRAINING_CASES, TEST_CASES = 3, 2


class Pair(NamedTuple):
    """Files of two scans to register, and of their labels."""

    fixed: Path
    fixed_labels: Path
    moving: Path
    moving_labels: Path


def make_demo_data(out: Path, *, seed: int = 0) -> Path:
    """Synthesize only the demo's dataset, in ``out/nnUNet_raw``, for trainings by hand.

    Args:
        out: New or empty folder.
        seed: Seed of the anatomy and its subjects.

    Returns:
        Folder of the dataset.

    Raises:
        InputError: If ``out`` is not empty.
    """
    raw = out / "nnUNet_raw" / DATASET
    with hold_lock(out):
        if not is_vacant(out):
            raise InputError(f"{out} is not empty; use an empty or new folder")
        make_dataset(raw, seed=seed)
    log.info("%d training scans and %d test scans are in %s", TRAINING_CASES, TEST_CASES, raw)
    return raw


def make_dataset(raw: Path, *, seed: int) -> None:
    """Synthesize the demo's dataset in nnU-Net's raw format, including labels of the test cases.

    Args:
        raw: Folder of the dataset.
        seed: Seed of the anatomy and its subjects.
    """
    for number in range(TRAINING_CASES + TEST_CASES):
        part = "Tr" if number < TRAINING_CASES else "Ts"
        subject = make_subject(seed, number)
        _write(raw / f"images{part}" / f"subject_{number:03d}_0000.nii.gz", subject.image)
        _write(raw / f"labels{part}" / f"subject_{number:03d}.nii.gz", subject.labels)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{organ: label for label, organ in enumerate(ORGANS, start=1)}},
        "numTraining": TRAINING_CASES,
        "file_ending": ".nii.gz",
    }
    write_text(raw / "dataset.json", json.dumps(description, indent=2))


def make_pair(folder: Path, *, seed: int) -> Pair:
    """Synthesize scans of both test subjects in different contrasts, the second one bent further.

    Args:
        folder: Folder of the scans.
        seed: Seed of the anatomy and its subjects.
    """
    pair = Pair(*(folder / name for name in ("t1.nii.gz", "t1_labels.nii.gz", "t2.nii.gz", "t2_labels.nii.gz")))
    fixed = make_subject(seed, TRAINING_CASES)
    moving = make_subject(seed, TRAINING_CASES + 1, "T2", bend=3.0)
    for path, volume in zip(pair, (*fixed, *moving), strict=True):
        _write(path, volume)
    return pair


def _write(path: Path, volume: Tensor) -> None:
    import SimpleITK as sitk

    from pretraining.imaging.writing import write_image

    image = sitk.GetImageFromArray(volume.permute(2, 1, 0).contiguous().numpy())
    image.SetSpacing((SPACING_MM,) * 3)
    write_image(path, image)
