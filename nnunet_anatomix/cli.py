"""``nnunet-anatomix``: what stock nnU-Net commands do not do themselves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_anatomix.backbone_command import backbone
from nnunet_anatomix.clinical.deliver_command import deliver
from nnunet_anatomix.clinical.intake_command import intake
from nnunet_anatomix.datasets.prepare_command import prepare
from nnunet_anatomix.features_command import features
from nnunet_anatomix.registration.align_command import align
from nnunet_anatomix.registration.register_command import register
from nnunet_anatomix.registration.search_command import registration_search
from nnunet_anatomix.reproduce.reproduce_command import reproduce
from nnunet_anatomix.weights_command import weights
from pretraining.command_line import run_commands
from pretraining.common.outputs import try_folder
from pretraining.errors import CommandFailed, UsageError

Datasets = Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-d"])]
MemoryTarget = Annotated[float | None, tyro.conf.arg(aliases=["-gpu_memory_target"])]
TargetSpacing = Annotated[tuple[float, float, float] | None, tyro.conf.arg(aliases=["-overwrite_target_spacing"])]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], tyro.conf.arg(aliases=["-device"])]
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
    from pretraining.common.lock import locked

    for one in dataset:
        with locked(preprocessed_folder(one), wait=True):
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
    from pretraining.common.lock import locked

    for one in dataset:
        with locked(preprocessed_folder(one), wait=True):
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
        starts: weights (bundled), scratch, stock (nnU-Net's own trainer and plan), or files of weights.
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
        dataset=find_dataset(dataset).name, iterations=iterations, max_patch=max_patch, batch=batch, patch=patch, spacing_mm=spacing
    )
    table = run_study(settings, out, shots=shots, seeds=seeds, starts=starts, device=device)
    logging.getLogger(__name__).info("%s\nall of it is in %s", table, out)


def evaluate(
    kind: Annotated[Literal["segmentation", "registration"], tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    truth: Annotated[Path | None, tyro.conf.Positional] = None,
    out: Path | None = None,
) -> None:
    """Score a folder of segmentations against true ones, or sum up a folder of registrations.

    Args:
        kind: segmentation or registration.
        folder: Segmentations; or what register wrote with --pairs, one folder a pair.
        truth: True segmentations of the same names; for segmentations only.
        out: Folder for tables and pictures; by default the folder itself.
    """
    try_folder(out or folder)
    if kind == "registration":
        from nnunet_anatomix.registration.summary import write_summary

        text = write_summary(folder, out)
    elif truth is None:
        raise UsageError("evaluate segmentation needs two folders: segmentations, and true ones of the same names")
    else:
        from nnunet_anatomix.segmentation_scores import evaluate_segmentation

        text = evaluate_segmentation(folder, truth, out=out or folder)
    logging.getLogger(__name__).info("%s\nall of it is in %s", text, out or folder)


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
    from nnunet_anatomix.demo import make_demo_data, run_demo

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


def main() -> None:
    """Entry point of ``nnunet-anatomix``."""
    run_commands("nnunet-anatomix", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    return {
        "plan": plan,
        "plan-and-preprocess": plan_and_preprocess,
        "split": split,
        "prepare": prepare,
        "reproduce": reproduce,
        "study": study,
        "features": features,
        "register": register,
        "align": align,
        "search": registration_search,
        "evaluate": evaluate,
        "intake": intake,
        "deliver": deliver,
        "weights": weights,
        "backbone": backbone,
        "doctor": doctor,
        "demo": demo,
    }


if __name__ == "__main__":
    main()
