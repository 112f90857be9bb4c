"""Planning: from a fingerprint to a plan that stock nnU-Net runs."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.plan_template import load_template
from nnunet_anatomix.finetuning.planning import anatomix_plan, write_plan
from nnunet_anatomix.finetuning.recipe import read_recipe
from nnunet_anatomix.finetuning.stock_plan import WORKERS, planning_environment
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import load_weights, save_weights
from pretraining.common.errors import InputError

STOCK = {
    "dataset_name": "Dataset007_Two",
    "plans_name": "nnUNetPlans",
    "experiment_planner_used": "SomePlanner",
    "configurations": {
        "2d": {"patch_size": [64, 64]},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "batch_size": 2,
            "patch_size": [28, 112, 112],
            "spacing": [1.0, 1.0, 1.0],
            "median_image_size_in_voxels": [84.0, 300.0, 320.0],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization", "NoNormalization"],
            "use_mask_for_norm": [False, True, False],
            "architecture": {"network_class_name": "a.stock.UNet", "arch_kwargs": {}, "_kw_requires_import": []},
        },
    },
    "foreground_intensity_properties_per_channel": {
        str(channel): {
            "max": 900.0,
            "mean": 40.0,
            "median": 38.0,
            "min": -900.0,
            "percentile_00_5": -80.0,
            "percentile_99_5": 300.0,
            "std": 9.0,
        }
        for channel in range(3)
    },
}


def test_plan_changes_what_the_backbone_needs_and_nothing_else():
    before = copy.deepcopy(STOCK)
    plan = anatomix_plan(STOCK, load_template(), "ourPlans", memory_target_gb=8.0, classes=3)
    assert before == STOCK
    configuration, stock = plan["configurations"]["3d_fullres"], STOCK["configurations"]["3d_fullres"]
    assert list(plan["configurations"]) == ["3d_fullres"] and plan["plans_name"] == "ourPlans"
    assert plan["experiment_planner_used"] == "ExperimentPlanner"
    assert configuration["data_identifier"] == "ourPlans_3d_fullres" and configuration["batch_size"] == 4
    assert configuration["normalization_schemes"] == ["CTNormalization", "RescaleTo01Normalization", "NoNormalization"]
    assert configuration["use_mask_for_norm"] == [False, False, False]
    assert configuration["patch_size"] == [80, 80, 80] and configuration["spacing"] == stock["spacing"]
    assert json.loads(json.dumps(plan)) == plan


def test_names_of_stock_plans_are_refused(nnunet, data_root):
    name = "Dataset901_Hippocampus"
    (nnunet.raw / name).symlink_to(data_root / "nnUNet_raw" / name)
    theirs = nnunet.preprocessed / name / "nnUNetResEncUNetLPlans.json"
    theirs.parent.mkdir()
    theirs.write_text(json.dumps(STOCK))
    for plans_name in ("nnUNetPlans", theirs.stem):
        with pytest.raises(InputError, match=f"found '{plans_name}', which names a plan of nnU-Net"):
            write_plan("901", plans_name=plans_name)
    assert json.loads(theirs.read_text()) == STOCK
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]


def test_stock_normalization_scales_ct_to_0_1():
    plan = anatomix_plan(STOCK, load_template(), "ourPlans", memory_target_gb=8.0, classes=3)
    properties = plan["foreground_intensity_properties_per_channel"]
    image = np.array([-1000.0, -450, 0, 450, 3000], dtype=np.float32)
    scaled = CTNormalization(use_mask_for_norm=False, intensityproperties=properties["0"]).run(image)
    np.testing.assert_allclose(scaled, [0, 0, 0.5, 1, 1], atol=1e-6)
    assert properties["1"] == STOCK["foreground_intensity_properties_per_channel"]["1"]


def test_2d_datasets_are_refused():
    flat = {**STOCK, "configurations": {"2d": {}}}
    with pytest.raises(InputError, match="2D"):
        anatomix_plan(flat, load_template(), "ourPlans", memory_target_gb=8.0, classes=3)


def few_cases(dataset: Path, count: int, folder: Path) -> None:
    """Link the first training cases of a dataset into a new one of the same name."""
    description = json.loads((dataset / "dataset.json").read_text())
    for part, channels in (("imagesTr", len(description["channel_names"])), ("labelsTr", 1)):
        (folder / dataset.name / part).mkdir(parents=True)
        for file in sorted((dataset / part).iterdir())[: count * channels]:
            (folder / dataset.name / part / file.name).symlink_to(file)
    (folder / dataset.name / "dataset.json").write_text(json.dumps(description | {"numTraining": count}))


def test_a_real_dataset_gets_a_plan_that_stock_code_reads(nnunet, data_root):
    name, channels = "Dataset903_LimbSarcoma", 2
    few_cases(data_root / "nnUNet_raw" / name, 1, nnunet.raw)
    path = write_plan("903", iterations=60)
    assert path == nnunet.preprocessed / name / "nnUNetAnatomixPlans.json"
    assert not (nnunet.preprocessed / name / "nnUNetPlans.json").exists()
    assert read_recipe(json.loads(path.read_text()), {}).iterations == 60
    _stock_code_reads(path, channels)


def test_the_plan_of_another_real_dataset(planned_hippocampus):
    _stock_code_reads(planned_hippocampus / "Dataset901_Hippocampus" / "nnUNetAnatomixPlans.json", channels=1)


def _stock_code_reads(path: Path, channels: int) -> None:
    plans = PlansManager(str(path))
    configuration = plans.get_configuration("3d_fullres")
    assert configuration.batch_size == 4 and len(configuration.normalization_schemes) == channels
    net = AnatomixTrainer.build_network_architecture(plans, configuration, channels, 2, False)
    assert isinstance(net, AnatomixNetwork) and net.backbone.config == UNetConfig(
        in_channels=channels, norm="instance", norm_affine=True
    )
    assert configuration.resampling_fn_data and configuration.preprocessor_class


@pytest.fixture
def tiny(nnunet):
    """Return a dataset of two scans of 12³ voxels."""
    import SimpleITK as sitk

    folder = nnunet.raw / "Dataset042_Tiny"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        sitk.WriteImage(
            sitk.GetImageFromArray(rng.random((12, 12, 12)).astype(np.float32)),
            str(folder / "imagesTr" / f"{case}_0000.nii.gz"),
        )
        sitk.WriteImage(
            sitk.GetImageFromArray(rng.integers(0, 2, (12, 12, 12)).astype(np.uint8)),
            str(folder / "labelsTr" / f"{case}.nii.gz"),
        )
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def _edit(folder, **changes) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: shutil.rmtree(folder), "no single dataset '42'"),
        (lambda folder: (folder / "dataset.json").unlink(), "cannot read"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "cannot read"),
        (
            lambda folder: (folder / "dataset.json").write_text('{"file_ending": ".nii.gz"}'),
            "channel_names such as .*, found none",
        ),
        (lambda folder: _edit(folder, labels={"background": 0}), "no foreground label"),
        (lambda folder: shutil.rmtree(folder / "imagesTr"), "no training images"),
        (lambda folder: shutil.rmtree(folder / "labelsTr"), "2 training cases have no label, the first is 'a'"),
    ],
)
def test_a_bad_dataset_gives_one_line_and_no_plan(spoil, message, tiny, nnunet):
    spoil(tiny)
    with pytest.raises(InputError, match=message) as caught:
        write_plan("42")
    assert "\n" not in str(caught.value)
    assert not list(nnunet.preprocessed.rglob("*.json"))


def test_unset_nnunet_folders_are_refused(nnunet, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        write_plan("42")


def test_weights_are_checked_and_stored_in_the_plan(tiny, weights_file):
    block = json.loads(write_plan("42", weights=str(weights_file)).read_text())["anatomix"]
    assert block["weights"] == str(weights_file) and block["sha256"] == load_weights(weights_file).sha256


def test_weights_of_another_architecture_are_refused_before_anything_is_written(tiny, nnunet, tmp_path):
    config = UNetConfig(width=4, out_channels=4)
    save_weights(tmp_path / "narrow.safetensors", UNet(config).state_dict(), config, {})
    with pytest.raises(InputError, match="this plan is for"):
        write_plan("42", weights=str(tmp_path / "narrow.safetensors"))
    with pytest.raises(InputError, match="no such file"):
        write_plan("42", weights=str(tmp_path / "none.safetensors"))
    assert not list(nnunet.preprocessed.rglob("*.json"))


def test_augmentation_without_worker_processes_can_be_planned(tiny, monkeypatch):
    """Stock planning uses the number of workers as number of threads, and fails at 0."""
    monkeypatch.setenv(WORKERS, "0")
    assert write_plan("42").is_file() and os.environ[WORKERS] == "0"
    assert planning_environment({"nnUNet_n_proc_DA": "0", "a": "b"}) == {"nnUNet_n_proc_DA": "1", "a": "b"}
    assert planning_environment({"nnUNet_n_proc_DA": "3"}) == {"nnUNet_n_proc_DA": "3"}


def test_iterations_must_be_positive(tiny):
    with pytest.raises(InputError, match="iterations"):
        write_plan("42", iterations=0)
