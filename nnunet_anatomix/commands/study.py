"""``nnunet-anatomix split`` and ``study``."""

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
    """Write folds that train on few cases and validate on the others; older folds are kept beside.

    Args:
        dataset: ID or name of a planned dataset.
        shots: Cases to train on.
        seed: Fold 0 trains on the same cases as a study with this seed.
        repeats: Folds, each with other cases.
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
    """Compare starts and numbers of labelled scans on scans never trained on: tables and a curve; killed, it goes on.

    Tested are imagesTs with labelsTs, or, where the dataset has none, the training cases left out.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw.
        out: Folder for everything; a later call may add shots, seeds and starts.
        shots: Numbers of labelled scans to train on; all there are if left out.
        seeds: Trainings of each kind.
        starts: weights (bundled), scratch, stock (nnU-Net's own trainer and plan), or files of
            weights.
        iterations: Optimizer steps of every training.
        max_patch: Longest side of a patch, voxels; as planned if left out.
        batch: Patches a step; as planned if left out.
        patch: Of our plan, voxels, slices first; as planned if left out.
        spacing: Grid of our plan, mm, slices first; as planned if left out.
        device: auto, cpu, cuda or mps.
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
    logging.getLogger(__name__).info("%s\nall of it is in %s", table, out)
