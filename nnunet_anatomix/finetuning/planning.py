"""Planning: adapt the stock nnU-Net plan of a dataset to the pretrained backbone.

The result is ``nnUNetAnatomixPlans.json`` in nnU-Net's preprocessed folder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_anatomix.finetuning.case_record import (
    case_files,
    describe_change,
    digest,
    read_record,
    record_cases,
    write_record,
)
from nnunet_anatomix.finetuning.dataset import RawDataset, check_cases, find_dataset
from nnunet_anatomix.finetuning.grid_rule import GeometryConfig, patch_and_batch
from nnunet_anatomix.finetuning.memory import GB
from nnunet_anatomix.finetuning.other_start import OtherWeights, read_other
from nnunet_anatomix.finetuning.other_template import other_template
from nnunet_anatomix.finetuning.patch_size import set_patch
from nnunet_anatomix.finetuning.plan_template import DEFAULT_ARCHITECTURE, PlanTemplate, load_template
from nnunet_anatomix.finetuning.recipe import BLOCK, Recipe
from nnunet_anatomix.finetuning.splits import update_splits
from nnunet_anatomix.finetuning.start_kind import check_trust, is_other
from nnunet_anatomix.finetuning.stock_plan import stock_plan
from pretraining.backbone.find_weights import HUB, find_weights
from pretraining.backbone.statistics import Statistics, match_architecture
from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count
from pretraining.common.command_output import printed_to_log
from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file
from pretraining.imaging.limits import check_spacing

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
DEFAULT_PLANS_NAME = "nnUNetAnatomixPlans"
STOCK_PLANS_NAME = "nnUNetPlans"
DEFAULT_STATISTICS: Statistics = "own"
"""Short trainings with batch statistics end far behind (docs/results.md)."""


def anatomix_plan(
    stock: Mapping[str, Any],
    template: PlanTemplate,
    plans_name: str,
    *,
    memory_target_gb: float,
    classes: int,
    max_patch: int | None = None,
) -> dict[str, Any]:
    """Convert a stock plan to a plan for the pretrained backbone; read and write no files.

    Patch and batch follow the rule of :mod:`nnunet_anatomix.finetuning.grid_rule`. Intensities are
    scaled to [0, 1]: CT by a stock ``CTNormalization`` whose statistics are set to clip and scale,
    other channels by ``RescaleTo01Normalization``.

    Args:
        stock: nnU-Net's own plan of the dataset, on the grid of
            :func:`~nnunet_anatomix.finetuning.grid_rule.target_spacing`.
        template: Settings of the backbone.
        plans_name: Name of the plan and of its preprocessed data, which differ from those of
            stock plans.
        memory_target_gb: Memory that training may use, 2^30 bytes.
        classes: Output channels of the segmentation head.
        max_patch: Maximum side of a patch, voxels. Default: no limit.

    Returns:
        Content of the plans file.

    Raises:
        InputError: If the dataset is not 3D, or if even one small patch does not fit into memory.

    Notes:
        Only ``3d_fullres`` is planned: the backbone is 3D, and the other stock configurations name
        stock networks.
    """
    if CONFIGURATION not in stock["configurations"]:
        raise InputError(
            f"{stock['dataset_name']} is 2D: nnU-Net plans no {CONFIGURATION} for it, but the backbone is 3D"
        )
    plan = copy.deepcopy(dict(stock))
    configuration = plan["configurations"][CONFIGURATION] | copy.deepcopy(template.configuration)
    schemes = [_SCHEMES.get(scheme, scheme) for scheme in configuration["normalization_schemes"]]
    low, high = template.ct_clip_hu
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization":
            plan["foreground_intensity_properties_per_channel"][str(channel)] |= {
                "percentile_00_5": low,
                "percentile_99_5": high,
                "mean": low,
                "std": high - low,
            }
    limits = template.limits(len(schemes), classes)
    patch, batch = patch_and_batch(
        configuration["median_image_size_in_voxels"],
        template.geometry,
        multiple=limits.multiple,
        min_side=limits.min_side,
        memory_target_gb=memory_target_gb,
        needed_gb=limits.needed_gb,
        max_patch=max_patch,
    )
    set_patch(configuration, patch)
    configuration |= {
        "data_identifier": f"{plans_name}_{CONFIGURATION}",
        "batch_size": batch,
        "normalization_schemes": schemes,
        "use_mask_for_norm": [False] * len(schemes),
    }
    # nnU-Net finds only planners of its own package by name.
    plan |= {
        "plans_name": plans_name,
        "experiment_planner_used": "ExperimentPlanner",
        "configurations": {CONFIGURATION: configuration},
    }
    return plan | {BLOCK: to_dict(template.anatomix)}


_SCHEMES = {"ZScoreNormalization": "RescaleTo01Normalization"}


def write_plan(
    dataset: str,
    *,
    iterations: int | None = None,
    weights: str | None = None,
    plans_name: str = DEFAULT_PLANS_NAME,
    memory_target_gb: float | None = None,
    spacing_mm: Sequence[float] | None = None,
    max_patch: int | None = None,
    architecture: str = DEFAULT_ARCHITECTURE,
    statistics: Statistics = DEFAULT_STATISTICS,
) -> Path:
    """Write the plan of ``dataset`` into nnU-Net's preprocessed folder.

    The fingerprint is extracted first if there is none, or if the cases have changed since;
    nnU-Net's own folds are then drawn again.

    Args:
        dataset: ID or name, as for nnU-Net's ``-d``.
        iterations: Optimizer steps. Default: those of the template.
        weights: File or ``hf://`` address to start from; the plan also stores its checksum. A
            ``.json`` file or a checkpoint of nnssl plans for another network.
            Default: the bundled weights.
        plans_name: Name for ``nnUNetv2_preprocess -plans_name`` and ``nnUNetv2_train -p``.
        memory_target_gb: Memory that training may use, 2^30 bytes. Default: see
            :func:`default_memory_target_gb`.
        spacing_mm: Spacing to resample to, mm, in the axis order of nnU-Net's fingerprint (slices
            first). Default: by the rule.
        max_patch: Maximum side of a patch, voxels; the grid is chosen for it. Default: no limit.
        architecture: Name of a template in the folder ``plans``.
        statistics: Statistics of batch normalization. ``own`` turns it into an instance
            normalization that starts from the same scale and shift.

    Returns:
        Path of the plans file.

    Raises:
        InputError: If folders, dataset, scans, labels or weights are missing or do not fit, or if
            the name is that of a plan of nnU-Net.
    """
    template = load_template(architecture).with_statistics(statistics)
    other = None if weights is None else _read_other(weights)
    if other is not None:
        if (architecture, statistics) != (DEFAULT_ARCHITECTURE, DEFAULT_STATISTICS):
            raise InputError(f"{weights} describes its own network; omit --architecture and --statistics")
        template = other_template(template, other.spec)
        spacing_mm = other.spec.spacing_mm if spacing_mm is None else spacing_mm
    if weights is None and architecture != DEFAULT_ARCHITECTURE:
        raise InputError(
            f"no bundled weights fit {architecture}; use --weights with a file or hf://owner/repo/file@revision"
        )
    changes: dict[str, Any] = {} if iterations is None else {"iterations": iterations}
    if other is not None:
        changes |= {"weights": _address(str(weights)), "sha256": other.sha256}
    elif weights is not None:
        changes |= _weights_entry(weights, template.backbone)
    recipe = from_dict(Recipe, {**to_dict(template.anatomix), **changes})
    target = default_memory_target_gb(template.geometry) if memory_target_gb is None else memory_target_gb
    if not 0 < target < math.inf or (spacing_mm is not None and len(spacing_mm) != 3):
        raise InputError(f"expected a memory target above 0 GB and three spacings, found {target} and {spacing_mm}")
    check_count(max_patch=max_patch)
    for axis_mm in spacing_mm or ():
        check_spacing(axis_mm, "target spacing")
    raw = find_dataset(dataset)
    path = Path(nnUNet_preprocessed) / raw.name / f"{plans_name}.json"
    _refuse_stock_plan(path)
    try_file(path, "nnUNet_preprocessed")
    check_cases(raw)
    before = read_record(path.parent)
    cases = record_cases(case_files(raw.cases), before)
    change = describe_change(before, cases)
    if before and change:
        log.info("%s has changed since it was planned (%s): planning from a new fingerprint", raw.name, change)
    plan = anatomix_plan(
        stock_plan(raw, plans_name, template.geometry, spacing_mm, max_patch=max_patch, anew=bool(change)),
        dataclasses.replace(template, anatomix=dataclasses.replace(recipe, cases=digest(cases))),
        plans_name,
        memory_target_gb=target,
        classes=_count_heads(raw),
        max_patch=max_patch,
    )
    write_record(path.parent, cases)
    write_text(path, json.dumps(plan, indent=4))
    try:
        update_splits(path.parent, list(raw.cases))
    except InputError as error:  # folds of the user, which fold all does not need
        log.warning("%s", error)
    configuration = plan["configurations"][CONFIGURATION]
    log.info(
        "%s: spacing %s mm, patch %s, batch %d, %d iterations",
        path,
        [round(spacing, 3) for spacing in configuration["spacing"]],
        configuration["patch_size"],
        configuration["batch_size"],
        recipe.iterations,
    )
    return path


def preprocessed_folder(dataset: str) -> Path:
    """Return the folder of a dataset's plans and preprocessed scans.

    Args:
        dataset: ID or name.

    Raises:
        InputError: If there is no such dataset.
    """
    name = find_dataset(dataset).name  # first, as it checks nnU-Net's variables
    return Path(nnUNet_preprocessed) / name


def preprocess(plan: Path, *, processes: int | None = None) -> None:
    """Preprocess the dataset of a plan with nnU-Net's own code.

    Args:
        plan: Plans file from :func:`write_plan`.
        processes: Parallel processes. Default: one per core, as nnU-Net counts them.
    """
    # nnU-Net replaces only labels that are older than those of the raw dataset, and keeps others.
    shutil.rmtree(plan.parent / "gt_segmentations", ignore_errors=True)
    with printed_to_log():
        preprocess_dataset(
            convert_dataset_name_to_id(plan.parent.name),
            plan.stem,
            (CONFIGURATION,),
            (default_num_processes if processes is None else processes,),
        )


def default_memory_target_gb(config: GeometryConfig) -> float:
    """Return the memory target of the rule, or the memory of the smallest GPU if that is less.

    A larger GPU does not raise the target, so that a plan does not depend on the machine.

    Args:
        config: Parameters of the rule.

    Returns:
        Memory target, 2^30 bytes.
    """
    if not torch.cuda.is_available():
        return config.memory_gb
    cards = [torch.cuda.get_device_properties(card).total_memory / GB for card in range(torch.cuda.device_count())]
    return min(config.memory_gb, *cards)


def _refuse_stock_plan(path: Path) -> None:
    """Refuse the name of a plan that nnU-Net made, or would make."""
    is_stock = path.stem == STOCK_PLANS_NAME
    if not is_stock and path.is_file():
        with suppress(ValueError):  # a damaged plan is replaced
            is_stock = BLOCK not in json.loads(path.read_text(encoding="utf-8"))
    if is_stock:
        raise InputError(
            f"-overwrite_plans_name: expected a name of your own, found '{path.stem}', which names a plan of nnU-Net "
            f"and its preprocessed scans; use {DEFAULT_PLANS_NAME}, or another name"
        )


def _count_heads(raw: RawDataset) -> int:
    labels = LabelManager(raw.description["labels"], raw.description.get("regions_class_order"))
    return labels.num_segmentation_heads


def _weights_entry(weights: str, backbone: UNetConfig) -> dict[str, str]:
    """Check that the weights fit the backbone; return their address and checksum for the plan."""
    path = find_weights(explicit=weights)
    loaded = load_weights(path)
    if match_architecture(loaded, backbone).architecture != backbone:
        raise InputError(f"{weights} holds {loaded.architecture}; this plan is for {backbone}")
    return {"weights": _address(weights), "sha256": loaded.sha256}


def _read_other(weights: str) -> OtherWeights | None:
    """Read weights of another network; return None for those of the backbone."""
    check_trust(weights)
    path = find_weights(explicit=weights)
    return read_other(path) if is_other(path) else None


def _address(weights: str) -> str:
    return weights if weights.startswith(HUB) else str(find_weights(explicit=weights).resolve())
