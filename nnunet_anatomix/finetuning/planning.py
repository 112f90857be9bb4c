"""From a dataset to ``nnUNetAnatomixPlans.json``: stock nnU-Net's plan, changed to what the pretrained backbone needs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_anatomix.finetuning.dataset import RawDataset, check_cases, find_dataset
from nnunet_anatomix.finetuning.grid_rule import GeometryConfig, patch_and_batch, target_spacing
from nnunet_anatomix.finetuning.memory import GB, training_memory_gb
from nnunet_anatomix.finetuning.network import backbone_config
from nnunet_anatomix.finetuning.recipe import BLOCK, Recipe
from pretraining.backbone.statistics import DEFAULT as DEFAULT_STATISTICS
from pretraining.backbone.statistics import Statistics, match_architecture
from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import find_weights, load_weights
from pretraining.common.atomic import write_text
from pretraining.common.config import from_dict, read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file
from pretraining.imaging.limits import check_spacing

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
WORKERS = "nnUNet_n_proc_DA"
"""Variable of nnU-Net's: processes that augment."""
DEFAULT_PLANS_NAME = "nnUNetAnatomixPlans"
DEFAULT_ARCHITECTURE = "anatomix_unet16"
"""Of the bundled weights."""


@dataclass(frozen=True, kw_only=True)
class PlanTemplate:
    """A JSON file of the folder ``plans``: what a plan says regardless of the dataset (see its README)."""

    configuration: dict[str, Any]
    """Keys of nnU-Net's configuration that replace its own: architecture and resampling."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """The rule for spacing, patch and batch."""
    ct_clip_hu: tuple[float, float] = (-450.0, 450.0)
    """CT intensities are clipped here and scaled to [0, 1], Hounsfield units."""
    anatomix: Recipe = field(default_factory=Recipe)
    """How to fine-tune."""

    @property
    def backbone(self) -> UNetConfig:
        """The network that the pretrained weights must fit."""
        return backbone_config(self.configuration["architecture"]["arch_kwargs"])

    def with_statistics(self, statistics: Statistics) -> PlanTemplate:
        """The template whose network normalizes with the given statistics, see :mod:`pretraining.backbone.statistics`."""
        if statistics == "running" or self.backbone.norm == "instance":
            return self
        architecture = self.configuration["architecture"]
        kwargs = {**architecture["arch_kwargs"], "norm": "instance", "norm_affine": True}
        return dataclasses.replace(
            self, configuration={**self.configuration, "architecture": {**architecture, "arch_kwargs": kwargs}}
        )


def load_template(name: str = DEFAULT_ARCHITECTURE) -> PlanTemplate:
    """The installed template ``name``; an unknown one is an :class:`InputError` that lists all."""
    files = [entry.name for entry in resources.files("nnunet_anatomix.plans").iterdir()]
    known = sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))
    if name not in known:
        raise InputError(f"no architecture '{name}'; there are {known}")
    with resources.as_file(resources.files("nnunet_anatomix.plans") / f"{name}.json") as path:
        return read_json(PlanTemplate, path)


def anatomix_plan(
    stock: Mapping[str, Any], template: PlanTemplate, plans_name: str, *, memory_target_gb: float, classes: int
) -> dict[str, Any]:
    """The plan for our backbone; nothing is read or written.

    Patch and batch follow the rule of :mod:`nnunet_anatomix.finetuning.grid_rule`. Intensities are
    brought to [0, 1]: CT by a stock ``CTNormalization`` whose statistics are set to clip and scale,
    the rest by ``RescaleTo01Normalization``.

    Args:
        stock: nnU-Net's own plan of the dataset, on the grid of
            :func:`~nnunet_anatomix.finetuning.grid_rule.target_spacing`.
        template: What the backbone needs.
        plans_name: Names the plan and its preprocessed data, which stock plans cannot share.
        memory_target_gb: That training may take, 2^30 bytes.
        classes: Segmentation heads.

    Raises:
        InputError: If the dataset is not 3D, or not even one small patch fits into memory.

    Notes:
        Only ``3d_fullres`` is planned: the backbone is 3D, and the other stock configurations name
        stock networks.
    """
    if CONFIGURATION not in stock["configurations"]:
        raise InputError(
            f"{stock['dataset_name']} is 2D: nnU-Net plans no {CONFIGURATION} for it, and the backbone is 3D"
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
    backbone = dataclasses.replace(template.backbone, in_channels=len(schemes))
    patch, batch = patch_and_batch(
        configuration["median_image_size_in_voxels"],
        template.geometry,
        multiple=backbone.multiple,
        min_side=backbone.min_side,
        memory_target_gb=memory_target_gb,
        needed_gb=lambda patch, batch: training_memory_gb(backbone, patch, batch, classes),
    )
    configuration |= {
        "data_identifier": f"{plans_name}_{CONFIGURATION}",
        "patch_size": patch,
        "batch_size": batch,
        "normalization_schemes": schemes,
        "use_mask_for_norm": [False] * len(schemes),
    }
    # nnU-Net looks planners up among its own.
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
    architecture: str = DEFAULT_ARCHITECTURE,
    statistics: Statistics = DEFAULT_STATISTICS,
) -> Path:
    """Plan ``dataset`` (ID or name) into nnU-Net's preprocessed folder; the fingerprint is extracted if there is none.

    Args:
        dataset: As nnU-Net's ``-d``.
        iterations: Optimizer steps; the template's if left out.
        weights: File or ``hf://`` address to start from, remembered with its checksum; the bundled
            default if left out.
        plans_name: For ``nnUNetv2_preprocess -plans_name`` and ``nnUNetv2_train -p``.
        memory_target_gb: Of the card to train on; by default see :func:`default_memory_target_gb`.
        spacing_mm: Grid to resample to, in the axis order of nnU-Net's fingerprint (slices first),
            in place of the rule's.
        architecture: Name of a template in the folder ``plans``.
        statistics: What its batch normalization uses: ``own`` makes it an instance normalization
            that starts from the same scale and shift.

    Returns:
        The file written.

    Raises:
        InputError: If folders, dataset, scans, labels or weights are missing or do not fit.
    """
    template = load_template(architecture).with_statistics(statistics)
    if weights is None and architecture != DEFAULT_ARCHITECTURE:
        raise InputError(
            f"no bundled weights fit {architecture}; name some by --weights: a file or hf://owner/repo/file@revision"
        )
    changes: dict[str, Any] = {} if iterations is None else {"iterations": iterations}
    if weights is not None:
        changes |= _checked_weights(weights, template.backbone)
    recipe = from_dict(Recipe, {**to_dict(template.anatomix), **changes})
    target = default_memory_target_gb(template.geometry) if memory_target_gb is None else memory_target_gb
    if not 0 < target < math.inf or (spacing_mm is not None and len(spacing_mm) != 3):
        raise InputError(f"expected a memory target above 0 GB and three spacings, found {target} and {spacing_mm}")
    for axis_mm in spacing_mm or ():
        check_spacing(axis_mm, "target spacing")
    raw = find_dataset(dataset)
    try_file(Path(nnUNet_preprocessed) / raw.name / f"{plans_name}.json", "nnUNet_preprocessed")
    check_cases(raw)
    plan = anatomix_plan(
        _stock_plan(raw, plans_name, template.geometry, spacing_mm),
        dataclasses.replace(template, anatomix=recipe),
        plans_name,
        memory_target_gb=target,
        classes=_heads(raw),
    )
    path = Path(nnUNet_preprocessed) / raw.name / f"{plans_name}.json"
    write_text(path, json.dumps(plan, indent=4))
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
    """Folder of a dataset's plans and preprocessed scans; InputError if there is no such dataset."""
    name = find_dataset(dataset).name  # first, as it checks nnU-Net's variables
    return Path(nnUNet_preprocessed) / name


def preprocess(plan: Path, *, processes: int | None = None) -> None:
    """Bring the dataset of a plan that :func:`write_plan` wrote to the plan's grid and intensities, with nnU-Net's own code."""
    preprocess_dataset(
        convert_dataset_name_to_id(plan.parent.name),
        plan.stem,
        (CONFIGURATION,),
        (default_num_processes if processes is None else processes,),
    )


def default_memory_target_gb(config: GeometryConfig) -> float:
    """The rule's own target, or what the smallest card found has if that is less, 2^30 bytes.

    A larger card changes nothing unless it is asked for, so that a plan does not depend on where it
    was made.
    """
    if not torch.cuda.is_available():
        return config.memory_gb
    cards = [torch.cuda.get_device_properties(card).total_memory / GB for card in range(torch.cuda.device_count())]
    return min(config.memory_gb, *cards)


class _UnwrittenPlanner(ExperimentPlanner):
    """Stock planning on our grid that leaves no plan of its own behind."""

    def __init__(
        self, dataset_name: str, plans_name: str, geometry: GeometryConfig, spacing_mm: Sequence[float] | None
    ) -> None:
        super().__init__(
            dataset_name,
            plans_name=plans_name,
            overwrite_target_spacing=None if spacing_mm is None else list(spacing_mm),
        )
        self._geometry = geometry

    def determine_fullres_target_spacing(self) -> np.ndarray:
        if self.overwrite_target_spacing is not None:
            return super().determine_fullres_target_spacing()
        found = self.dataset_fingerprint
        return np.array(target_spacing(found["spacings"], found["shapes_after_crop"], self._geometry))

    def save_plans(self, plans: dict[str, Any]) -> None:
        recursive_fix_for_json_export(plans)


def _stock_plan(
    raw: RawDataset, plans_name: str, geometry: GeometryConfig, spacing_mm: Sequence[float] | None
) -> dict[str, Any]:
    DatasetFingerprintExtractor(raw.name, default_num_processes).run(overwrite_existing=False)
    # What stock planning prints is about the U-Net that we replace.
    with contextlib.redirect_stdout(io.StringIO()), _at_least_one_worker():
        return _UnwrittenPlanner(raw.name, plans_name, geometry, spacing_mm).plan_experiment()


@contextlib.contextmanager
def _at_least_one_worker() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(planning_environment(before))
    try:
        yield
    finally:
        if WORKERS in before:
            os.environ[WORKERS] = before[WORKERS]


def planning_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with at least one worker for augmentation.

    ``nnUNet_n_proc_DA=0`` asks trainers to augment in their own process. Stock planning takes the
    same number for its threads, and fails when there are none.
    """
    return {**environment, WORKERS: "1"} if environment.get(WORKERS, "").strip() == "0" else dict(environment)


def _heads(raw: RawDataset) -> int:
    labels = LabelManager(raw.description["labels"], raw.description.get("regions_class_order"))
    return labels.num_segmentation_heads


def _checked_weights(weights: str, backbone: UNetConfig) -> dict[str, str]:
    path = find_weights(explicit=weights)
    loaded = load_weights(path)
    if match_architecture(loaded, backbone).architecture != backbone:
        raise InputError(f"{weights} holds {loaded.architecture}; this plan is for {backbone}")
    address = weights if weights.startswith("hf://") else str(path.resolve())
    return {"weights": address, "sha256": loaded.sha256}
