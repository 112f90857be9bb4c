"""Command ``nnunet-anatomix enlarge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def enlarge(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    unlabelled: Path | None = None,
    plans: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "nnUNetAnatomixPlans",
    memory: str = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Add scans without labels to the training of a plan.

    They are labelled by registered labelled scans, as by the command propagate. In training, each
    voxel counts by how far those agree. The labels for a fold are made from its training cases
    alone. Writes a plan for nnUNetv2_train -p. If interrupted, run the same command again.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw, with two labelled scans or more.
        unlabelled: Folder of scans without labels, named CASE_0000.nii.gz and so on. Default:
            folder imagesUn of the dataset.
        plans: Name of a preprocessed plan. The new plan has this name and Enlarged.
        memory: Memory above PyTorch's own, such as 4G. Default: most of what is free.
        device: Device of the registrations.
    """
    from nnunet_anatomix.enlarging.enlarge import EnlargeRequest, run_enlarging

    run_enlarging(
        EnlargeRequest(
            dataset=dataset,
            images=unlabelled,
            plans=plans,
            memory=None if memory == "auto" else memory,
            device=device,
        )
    )
