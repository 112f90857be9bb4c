"""``nnunet-anatomix``: what stock nnU-Net commands do not do themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

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


def main() -> None:
    """Entry point of ``nnunet-anatomix``."""
    run_commands("nnunet-anatomix", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    return {"plan": plan}


if __name__ == "__main__":
    main()
