"""From a dataset to ``nnUNetAnatomixPlans.json``: stock nnU-Net's plan, changed to what the pretrained backbone needs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_anatomix.finetuning.labels import require_foreground
from nnunet_anatomix.finetuning.recipe import BLOCK, Recipe
from pretraining.atomic import write_text
from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import find_weights, load_weights
from pretraining.config import from_dict, read_json, to_dict
from pretraining.errors import InputError

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
DEFAULT_PLANS_NAME = "nnUNetAnatomixPlans"


@dataclass(frozen=True, kw_only=True)
class PlanTemplate:
    """A JSON file of the folder ``plans``: what a plan says regardless of the dataset (see its README)."""

    configuration: dict[str, Any]
    """Keys of nnU-Net's configuration that replace its own: batch size and architecture."""
    ct_clip_hu: tuple[float, float] = (-450.0, 450.0)
    """CT intensities are clipped here and scaled to [0, 1], Hounsfield units."""
    anatomix: Recipe = dataclasses.field(default_factory=Recipe)
    """How to fine-tune."""

    @property
    def backbone(self) -> UNetConfig:
        """The network that the pretrained weights must fit."""
        return from_dict(UNetConfig, self.configuration["architecture"]["arch_kwargs"])


def load_template(name: str = "anatomix_unet16") -> PlanTemplate:
    """The installed template ``name``."""
    with resources.as_file(resources.files("nnunet_anatomix.plans") / f"{name}.json") as path:
        return read_json(PlanTemplate, path)


def anatomix_plan(stock: Mapping[str, Any], template: PlanTemplate, plans_name: str) -> dict[str, Any]:
    """The plan for our backbone; nothing is read or written.

    Spacing, patch, resampling and label handling stay as stock nnU-Net chose them. Intensities are brought to [0, 1]:
    CT by a stock ``CTNormalization`` whose statistics are set to clip and scale, the rest by ``RescaleTo01Normalization``.

    Parameters
    ----------
    stock : nnU-Net's own plan of the dataset.
    template : what the backbone needs.
    plans_name : names the plan and its preprocessed data, which stock plans cannot share.

    Raises
    ------
    InputError
        If the dataset is not 3D.

    Notes
    -----
    Only ``3d_fullres`` is planned: the backbone is 3D, and the other stock configurations name stock networks.
    """
    if CONFIGURATION not in stock["configurations"]:
        raise InputError(f"{stock['dataset_name']} is 2D: nnU-Net plans no {CONFIGURATION} for it, and the backbone is 3D")
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
    configuration |= {
        "data_identifier": f"{plans_name}_{CONFIGURATION}",
        "normalization_schemes": schemes,
        "use_mask_for_norm": [False] * len(schemes),
    }
    # nnU-Net looks planners up among its own.
    plan |= {"plans_name": plans_name, "experiment_planner_used": "ExperimentPlanner", "configurations": {CONFIGURATION: configuration}}
    return plan | {BLOCK: to_dict(template.anatomix)}


_SCHEMES = {"ZScoreNormalization": "RescaleTo01Normalization"}


def write_plan(dataset: str, *, iterations: int | None = None, weights: str | None = None, plans_name: str = DEFAULT_PLANS_NAME) -> Path:
    """Plan ``dataset`` (ID or name) into nnU-Net's preprocessed folder; the fingerprint is extracted if there is none.

    Parameters
    ----------
    dataset : as nnU-Net's ``-d``.
    iterations : optimizer steps; the template's if left out.
    weights : file or ``hf://`` address to start from, remembered with its checksum; the bundled default if left out.
    plans_name : for ``nnUNetv2_preprocess -plans_name`` and ``nnUNetv2_train -p``.

    Returns
    -------
    The file written.

    Raises
    ------
    InputError
        If folders, dataset, labels or weights are missing or do not fit.
    """
    template = load_template()
    changes: dict[str, Any] = {} if iterations is None else {"iterations": iterations}
    if weights is not None:
        changes |= _checked_weights(weights, template.backbone)
    recipe = from_dict(Recipe, {**to_dict(template.anatomix), **changes})
    name = _checked_dataset(dataset)
    plan = anatomix_plan(_stock_plan(name, plans_name), dataclasses.replace(template, anatomix=recipe), plans_name)
    path = Path(nnUNet_preprocessed) / name / f"{plans_name}.json"
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
    log.info("next: nnUNetv2_preprocess -d %s -plans_name %s -c %s", dataset, plans_name, CONFIGURATION)
    return path


class _UnwrittenPlanner(ExperimentPlanner):
    """Stock planning that leaves no plan of its own behind."""

    def save_plans(self, plans: dict[str, Any]) -> None:
        recursive_fix_for_json_export(plans)


def _stock_plan(name: str, plans_name: str) -> dict[str, Any]:
    DatasetFingerprintExtractor(name, default_num_processes).run(overwrite_existing=False)
    # What stock planning prints is about the U-Net that we replace.
    with contextlib.redirect_stdout(io.StringIO()):
        return _UnwrittenPlanner(name, plans_name=plans_name).plan_experiment()


def _checked_weights(weights: str, backbone: UNetConfig) -> dict[str, str]:
    path = find_weights(explicit=weights)
    loaded = load_weights(path)
    if loaded.architecture != backbone:
        raise InputError(f"{weights} holds {loaded.architecture}; this plan is for {backbone}")
    address = weights if weights.startswith("hf://") else str(path.resolve())
    return {"weights": address, "sha256": loaded.sha256}


def _checked_dataset(dataset: str) -> str:
    for variable, folder in (("nnUNet_raw", nnUNet_raw), ("nnUNet_preprocessed", nnUNet_preprocessed)):
        if not folder.get():
            raise InputError(f"{variable} is not set; it names nnU-Net's folder (documentation/setting_up_paths.md of nnU-Net)")
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError):
        raise InputError(
            f"no single dataset '{dataset}' in {nnUNet_raw}; expected one folder Dataset{str(dataset).zfill(3)}_NAME"
        ) from None
    folder = Path(nnUNet_raw) / name
    try:
        description = load_json(str(folder / "dataset.json"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / 'dataset.json'} ({error}); see dataset_format.md of nnU-Net") from None
    if missing := [key for key in ("labels", "file_ending") if key not in description]:
        raise InputError(f"{folder / 'dataset.json'} has no {missing}; see dataset_format.md of nnU-Net")
    require_foreground(name, description["labels"])
    cases = get_filenames_of_train_images_and_targets(str(folder), description) if _has_images(folder, description) else {}
    if not cases:
        raise InputError(f"{name} has no training images in {folder / 'imagesTr'}")
    if unlabelled := [case for case, files in cases.items() if not Path(files["label"]).is_file()]:
        raise InputError(f"{name}: {len(unlabelled)} training cases have no label, the first is '{unlabelled[0]}'; expected it in labelsTr")
    return name


def _has_images(folder: Path, description: Mapping[str, Any]) -> bool:
    return "dataset" in description or (folder / "imagesTr").is_dir()
