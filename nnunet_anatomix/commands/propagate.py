"""Command ``nnunet-anatomix propagate``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.common.rare_flags import Rare

log = logging.getLogger(__name__)


def propagate(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    images: Annotated[Path, tyro.conf.arg(aliases=["-i"])],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    preset: Literal["auto", "fast", "standard", "fine"] = "auto",
    fusion: Literal["auto", "vote", "local", "joint"] = "auto",
    atlases: int | None = None,
    leave_out: int = 5,
    features: str = "none",
    feature_weight: Rare[float] = 0.1,
    memory: str = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Label scans without training, by registering labelled scans to them.

    Each labelled scan is first labelled by the others, which tells the Dice to expect and chooses
    the settings. If interrupted, run the same command again to resume.

    Args:
        dataset: ID or name of a dataset below nnUNet_raw.
        images: Folder of scans to label, named CASE_0000.nii.gz and so on, as for nnU-Net.
        out: Folder for the labels, named as nnU-Net names predictions, and what is known of them.
        preset: Size of the working grid: fast, standard, fine, or auto (the better of fast and
            standard).
        fusion: Vote of the labelled scans: vote (equal), local, joint, or auto (the best).
        atlases: Labelled scans to register to each scan, those that agree best. Default: all.
        leave_out: Labelled scans to leave out for the estimate; 0 skips it.
        features: Weights of features that are compared beside MIND-SSC, or none.
        feature_weight: Factor of the features relative to MIND-SSC.
        memory: Memory above PyTorch's own, such as 4G. Default: most of what is free.
        device: Device of descriptors and displacements.
    """
    from nnunet_anatomix.propagation.run import PropagationRequest, run_propagation

    run_propagation(
        PropagationRequest(
            dataset=dataset,
            images=images,
            out=out,
            preset=None if preset == "auto" else preset,
            fusion=None if fusion == "auto" else fusion,
            atlases=atlases,
            leave_out=leave_out,
            features=None if features == "none" else features,
            feature_weight=feature_weight,
            memory=None if memory == "auto" else memory,
            device=device,
        )
    )
