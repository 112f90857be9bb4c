"""Commands ``nnunet-anatomix split`` and ``study``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(aliases=["-device"])]


def split(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    shots: int = 3,
    seed: int = 0,
    repeats: int = 1,
) -> None:
    """Write folds that train on few cases and validate on the others; existing folds are backed up.

    Args:
        dataset: ID or name of a planned dataset.
        shots: Training cases per fold.
        seed: Seed; fold 0 trains on the same cases as a study with this seed.
        repeats: Number of folds, each with other training cases.
    """
    from nnunet_anatomix.finetuning.splits import split_dataset

    split_dataset(dataset, shots, seed=seed, repeats=repeats)


def study(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    out: Path,
    shots: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    starts: tuple[str, ...] = ("weights", "scratch", "stock"),
    iterations: int = 37_500,
    max_patch: int | None = None,
    batch: int | None = None,
    patch: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    device: Device = "auto",
) -> None:
    """Compare initial weights and numbers of labelled scans by their Dice on held-out scans.

    Writes tables and a curve. The test scans are imagesTs with labelsTs, or the remaining training
    cases if the dataset has no labelsTs. If interrupted, run the same command again to resume.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw.
        out: Output folder; a later call may add shots, seeds and starts.
        shots: Numbers of labelled scans to train on. Default: all.
        seeds: Seeds; each start and number of shots is trained once per seed.
        starts: weights (bundled), paper (trained as in the paper), scratch, stock (nnU-Net's
            trainer and plan), or weights files.
        iterations: Optimizer steps per training.
        max_patch: Maximum side of a patch, voxels. Default: as planned.
        batch: Patches per step. Default: as planned.
        patch: Patch size of our plan, voxels, slices first. Default: as planned.
        spacing: Spacing of our plan, mm, slices first. Default: as planned.
        device: Device for training and prediction.
    """
    import torch

    from nnunet_anatomix.finetuning.dataset import find_dataset
    from nnunet_anatomix.study.runs import StudySettings
    from nnunet_anatomix.study.study import study as run_study

    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    settings = StudySettings(
        dataset=find_dataset(dataset).name,
        iterations=iterations,
        max_patch=max_patch,
        batch=batch,
        patch=patch,
        spacing_mm=spacing,
    )
    table = run_study(settings, out, shots=shots, seeds=seeds, starts=starts, device=device)
    logging.getLogger(__name__).info("%s\nresults are in %s", table, out)
