"""``nnunet-anatomix demo`` and ``doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pretraining.common.errors import CommandFailed


def demo(
    out: Path = Path("demo"),
    iterations: int = 150,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    only_data: bool = False,
) -> None:
    """Train on three synthetic scans and segment two others, by stock nnU-Net commands: Dice, pictures and a report.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        iterations: Optimizer steps.
        device: auto, cpu or cuda.
        seed: Of the synthetic anatomy.
        only_data: Only make the dataset, in OUT/nnUNet_raw; OUT must be new or empty.
    """
    from nnunet_anatomix.demo.run import make_demo_data, run_demo

    if only_data:
        make_demo_data(out, seed=seed)
        return
    run_demo(out, iterations=iterations, device=device, seed=seed)


def doctor() -> None:
    """Check all that training and prediction need: a line each, with what to do; the exit code is 1 if there is a problem."""
    from nnunet_anatomix.doctor import examine

    levels = []
    for finding in examine():
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
        levels.append(finding.level)
    if problems := levels.count("problem"):
        raise CommandFailed(f"{problems} of {len(levels)} findings are problems")
