"""``nnunet-anatomix plan`` and ``plan-and-preprocess``."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import tyro

Datasets = Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-d"])]
MemoryTarget = Annotated[float | None, tyro.conf.arg(aliases=["-gpu_memory_target"])]
TargetSpacing = Annotated[tuple[float, float, float] | None, tyro.conf.arg(aliases=["-overwrite_target_spacing"])]
PlansName = Annotated[str, tyro.conf.arg(aliases=["-overwrite_plans_name"])]


def plan(
    dataset: Datasets,
    iterations: int | None = None,
    weights: str | None = None,
    gpu_memory_target: MemoryTarget = None,
    overwrite_target_spacing: TargetSpacing = None,
    overwrite_plans_name: PlansName = "nnUNetAnatomixPlans",
    architecture: str = "anatomix_unet16",
    statistics: Literal["running", "own"] = "running",
) -> None:
    """Write plans for the pretrained backbone, for nnUNetv2_preprocess -plans_name and nnUNetv2_train -p.

    Args:
        dataset: IDs or names of datasets below nnUNet_raw.
        iterations: Optimizer steps; 37500 as in the paper if left out.
        weights: Weights file or hf://owner/repo/file@revision; the bundled ones if left out.
        gpu_memory_target: GB that training may take; 8, or what the card has if that is less.
        overwrite_target_spacing: Grid to resample to, mm, slices first; by the rule of plans/README.md if left out.
        overwrite_plans_name: Name of the plan.
        architecture: anatomix_unet16 or anatomix_dev, a template of the folder plans; anatomix_dev needs weights named.
        statistics: What batch normalization uses: the running averages of its training, or each patch's own (instance normalization).
    """
    # Imports torch and nnU-Net, which --help does without.
    from nnunet_anatomix.finetuning.planning import preprocessed_folder, write_plan
    from pretraining.common.lock import hold_lock

    for one in dataset:
        with hold_lock(preprocessed_folder(one), wait=True):
            write_plan(
                one,
                iterations=iterations,
                weights=weights,
                plans_name=overwrite_plans_name,
                memory_target_gb=gpu_memory_target,
                spacing_mm=overwrite_target_spacing,
                architecture=architecture,
                statistics=statistics,
            )
        logging.getLogger(__name__).info("next: nnUNetv2_preprocess -d %s -plans_name %s -c 3d_fullres", one, overwrite_plans_name)


def plan_and_preprocess(
    dataset: Datasets,
    iterations: int | None = None,
    weights: str | None = None,
    gpu_memory_target: MemoryTarget = None,
    overwrite_target_spacing: TargetSpacing = None,
    overwrite_plans_name: PlansName = "nnUNetAnatomixPlans",
    architecture: str = "anatomix_unet16",
    statistics: Literal["running", "own"] = "running",
    np: Annotated[int | None, tyro.conf.arg(aliases=["-np"])] = None,
) -> None:
    """Plan, then preprocess with nnU-Net's own code: all that is needed before nnUNetv2_train -p.

    Args:
        dataset: IDs or names of datasets below nnUNet_raw.
        iterations: Optimizer steps; 37500 as in the paper if left out.
        weights: Weights file or hf://owner/repo/file@revision; the bundled ones if left out.
        gpu_memory_target: GB that training may take; 8, or what the card has if that is less.
        overwrite_target_spacing: Grid to resample to, mm, slices first; by the rule of plans/README.md if left out.
        overwrite_plans_name: Name of the plan.
        architecture: anatomix_unet16 or anatomix_dev, a template of the folder plans; anatomix_dev needs weights named.
        statistics: What batch normalization uses: the running averages of its training, or each patch's own (instance normalization).
        np: Processes that preprocess; by default one a core, as nnU-Net counts them.
    """
    from nnunet_anatomix.finetuning.planning import preprocess, preprocessed_folder, write_plan
    from pretraining.common.lock import hold_lock

    for one in dataset:
        with hold_lock(preprocessed_folder(one), wait=True):
            path = write_plan(
                one,
                iterations=iterations,
                weights=weights,
                plans_name=overwrite_plans_name,
                memory_target_gb=gpu_memory_target,
                spacing_mm=overwrite_target_spacing,
                architecture=architecture,
                statistics=statistics,
            )
            preprocess(path, processes=np)
        logging.getLogger(__name__).info(
            "next: nnUNetv2_train %s 3d_fullres all -tr AnatomixTrainer -p %s", path.parent.name, overwrite_plans_name
        )
