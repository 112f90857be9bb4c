"""Commands ``nnunet-anatomix demo`` and ``doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pretraining.common.errors import CommandFailed


def demo(
    out: Path = Path("demo"),
    iterations: int = 100,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    only_data: bool = False,
) -> None:
    """Show few-shot segmentation and registration on synthetic scans, in minutes.

    Three labelled subjects train a network from pretrained weights and one from scratch, which
    segment two others; then a T2 scan is registered to a T1 scan. OUT/report.html shows all.

    Args:
        out: Output folder; an earlier demo in it is replaced.
        iterations: Optimizer steps of each training.
        device: Device for training and prediction.
        seed: Seed of the synthetic anatomy.
        only_data: Write only the dataset, in OUT/nnUNet_raw; OUT must be new or empty.
    """
    from nnunet_anatomix.demo.dataset import make_demo_data
    from nnunet_anatomix.demo.run import run_demo

    if only_data:
        make_demo_data(out, seed=seed)
        return
    run_demo(out, iterations=iterations, device=device, seed=seed)


def doctor() -> None:
    """Check the installation, and say what to do.

    The exit code is 1 if a requirement of training or prediction is not met.
    """
    from nnunet_anatomix.doctor import examine

    levels = []
    for finding in examine():
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
        levels.append(finding.level)
    if problems := levels.count("problem"):
        raise CommandFailed(f"{problems} of {len(levels)} findings are problems")
