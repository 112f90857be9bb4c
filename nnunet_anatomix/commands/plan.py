"""Commands ``nnunet-anatomix plan`` and ``plan-and-preprocess``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Flags that both commands share."""

    dataset: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-d"])]
    """IDs or names of datasets below nnUNet_raw."""
    iterations: int | None = None
    """Optimizer steps. Default: 37500, as in the paper."""
    weights: str | None = None
    """Weights file or hf://owner/repo/file@revision; a .json of another network or a checkpoint of
    nnssl plans for that network. Default: the bundled weights."""
    gpu_memory_target: Annotated[float | None, tyro.conf.arg(aliases=["-gpu_memory_target"])] = None
    """Memory for training, GB. Default: 8, or the memory of the card if that is less."""
    overwrite_target_spacing: Annotated[
        tuple[float, float, float] | None, tyro.conf.arg(aliases=["-overwrite_target_spacing"])
    ] = None
    """Spacing to resample to, mm, slice axis first. Default: by the rule in plans/README.md."""
    max_patch: int | None = None
    """Maximum side of a patch, voxels, for example 64 on a CPU. The grid is then coarsened, at most
    twofold, so that a patch covers three quarters of a scan. Default: as memory allows."""
    overwrite_plans_name: Annotated[str, tyro.conf.arg(aliases=["-overwrite_plans_name"])] = "nnUNetAnatomixPlans"
    """Name of the plans."""
    architecture: str = "anatomix_unet16"
    """Plan template: anatomix_unet16, or anatomix_dev, which needs --weights."""
    statistics: Literal["running", "own"] = "own"
    """Statistics of batch normalization: each patch's own, or running averages as in the paper."""


Options = Annotated[PlanOptions, tyro.conf.arg(name="")]
Processes = Annotated[int | None, tyro.conf.arg(aliases=["-np"])]


def plan(options: Options) -> list[Path]:
    """Write plans for the pretrained backbone.

    Their name is for nnUNetv2_preprocess -plans_name and nnUNetv2_train -p.

    Args:
        options: Datasets and settings.
    """
    plans = []
    for dataset, path in _write_plans(options):
        name = options.overwrite_plans_name
        log.info("next: nnUNetv2_preprocess -d %s -plans_name %s -c 3d_fullres", dataset, name)
        plans.append(path)
    return plans


def plan_and_preprocess(options: Options, np: Processes = None) -> list[Path]:
    """Plan, then preprocess with nnU-Net, as nnUNetv2_train -p expects.

    Args:
        options: Datasets and settings.
        np: Processes for preprocessing. Default: one per core, as nnU-Net counts them.
    """
    from nnunet_anatomix.finetuning.planning import preprocess

    plans = []
    for _, path in _write_plans(options):
        preprocess(path, processes=np)
        dataset, name = path.parent.name, options.overwrite_plans_name
        log.info("next: nnUNetv2_train %s 3d_fullres all -tr AnatomixTrainer -p %s", dataset, name)
        plans.append(path)
    return plans


def _write_plans(options: PlanOptions) -> Iterator[tuple[str, Path]]:
    """Write the plans of each dataset; yield its name and the file while the folder is locked."""
    from nnunet_anatomix.finetuning.planning import preprocessed_folder, write_plan
    from pretraining.common.lock import hold_lock

    for dataset in options.dataset:
        with hold_lock(preprocessed_folder(dataset), wait=True):
            yield (
                dataset,
                write_plan(
                    dataset,
                    iterations=options.iterations,
                    weights=options.weights,
                    plans_name=options.overwrite_plans_name,
                    memory_target_gb=options.gpu_memory_target,
                    spacing_mm=options.overwrite_target_spacing,
                    max_patch=options.max_patch,
                    architecture=options.architecture,
                    statistics=options.statistics,
                ),
            )
