"""``nnunet-anatomix``: what stock nnU-Net commands do not do themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.command_line import run_commands


def plan(
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])],
    iterations: int | None = None,
    weights: str | None = None,
    overwrite_plans_name: Annotated[str, tyro.conf.arg(aliases=["-overwrite_plans_name"])] = "nnUNetAnatomixPlans",
) -> None:
    """Write a plan for the pretrained backbone, for nnUNetv2_preprocess -plans_name and nnUNetv2_train -p.

    Args:
        dataset: ID or name of the dataset, below nnUNet_raw.
        iterations: Optimizer steps; 37500 as in the paper if left out.
        weights: Weights file or hf://owner/repo/file@revision; the bundled ones if left out.
        overwrite_plans_name: Name of the plan.
    """
    from nnunet_anatomix.finetuning.planning import write_plan  # imports torch and nnU-Net, which --help does without

    write_plan(dataset, iterations=iterations, weights=weights, plans_name=overwrite_plans_name)


def demo(out: Path = Path("demo"), iterations: int = 150, device: Literal["auto", "cpu", "cuda"] = "auto", seed: int = 0) -> None:
    """Train on three synthetic scans and segment two others, by stock nnU-Net commands: Dice, pictures and a report.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        iterations: Optimizer steps.
        device: auto, cpu or cuda.
        seed: Of the synthetic anatomy.
    """
    from nnunet_anatomix.demo import run_demo

    run_demo(out, iterations=iterations, device=device, seed=seed)


def main() -> None:
    """Entry point of ``nnunet-anatomix``."""
    run_commands("nnunet-anatomix", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    return {"plan": plan, "demo": demo}


if __name__ == "__main__":
    main()
