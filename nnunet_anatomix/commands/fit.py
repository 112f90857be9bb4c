"""Commands ``nnunet-anatomix fit`` and ``next``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(aliases=["-device"])]


def fit(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    unlabelled: str | None = None,
    minutes: float | None = None,
    iterations: int | None = None,
    max_patch: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Train on a few labelled scans in one command, and tell the Dice to expect.

    Plans and preprocesses, cross-validates trainings of growing length until the Dice no longer
    rises or the minutes end, then trains on all scans. Prints the command that predicts new scans.
    If interrupted, run the same command again to resume.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw, with two labelled scans or more.
        unlabelled: Folder of scans without labels, named CASE_0000.nii.gz and so on, or none.
            Registered labelled scans and the networks label them, and they join training if the
            Dice rises. Default: folder imagesUn of the dataset, if there is one.
        minutes: Time for all trainings. A round begins only if it is expected to end in time; the
            first always runs. Default: no limit.
        iterations: Optimizer steps per training. Default: the best of 100, 400, 1600 and so on.
        max_patch: Maximum side of a patch, voxels. Default: 64 on a CPU, else as planned.
        batch: Patches per step. Default: 2 on a CPU, else as planned.
        seed: Seed of the trainings.
        device: Device of the trainings.
    """
    from nnunet_anatomix.fit.fit import FitRequest
    from nnunet_anatomix.fit.fit import fit as run_fit

    run_fit(
        FitRequest(
            dataset=dataset,
            unlabelled=unlabelled,
            minutes=minutes,
            iterations=iterations,
            max_patch=max_patch,
            batch=batch,
            seed=seed,
            device=device,
        )
    )


def next_scan(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    images: Annotated[Path, tyro.conf.arg(aliases=["-i"])],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    atlases: bool = True,
    device: Device = "auto",
) -> None:
    """Tell which scan to label next: that on which networks and atlases disagree.

    Networks are the folds of a fit of this dataset; atlases are its labelled scans, registered to
    each scan. Writes a table and a page with pictures. If interrupted, run the same command again.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw.
        images: Folder of scans without labels, named CASE_0000.nii.gz and so on.
        out: Folder for table, page and labels. Default: folder next below nnUNet_results/DATASET.
        atlases: Register the labelled scans too; needed if there is no fit.
        device: Device of prediction and registration.
    """
    from nnunet_anatomix.fit.next_scan import NextRequest, rank_scans

    rank_scans(NextRequest(dataset=dataset, images=images, out=out, atlases=atlases, device=device))
