"""From a JSON file to stock prediction: plan, training and prediction of another network."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet as MonaiUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.planning import DEFAULT_STATISTICS, write_plan
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer, AnatomixTrainerScratch
from nnunet_anatomix.study.runs import resize_patch
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.common.errors import InputError

NAME = "Dataset901_Hippocampus"
UNET = NetworkSpec(
    network="monai.networks.nets.UNet",
    kwargs={"spatial_dims": 3, "in_channels": 1, "out_channels": 6, "channels": [4, 8, 8], "strides": [2, 2]},
    state="unet.pth",
    multiple=4,
)


@pytest.fixture
def hippocampus(nnunet, planned_hippocampus, data_root, monkeypatch):
    """Return nnU-Net's folders with Dataset901, its fingerprint and its preprocessed scans."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    (nnunet.raw / NAME).symlink_to(data_root / "nnUNet_raw" / NAME)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return nnunet


@pytest.fixture
def unet(tmp_path):
    """Write a JSON file with the weights of a small network; return a function that changes it."""
    torch.manual_seed(4)
    net = MonaiUNet(**UNET.kwargs)
    torch.save(net.state_dict(), tmp_path / UNET.state)

    def write(**changes: object) -> str:
        path = tmp_path / f"unet{'_'.join(['', *changes])}.json"
        path.write_text(json.dumps(asdict(replace(UNET, **changes))))
        return str(path)

    return write


def configuration_of(path) -> dict:
    return json.loads(path.read_text())["configurations"]["3d_fullres"]


def trainer_of(folders, path, kind=AnatomixTrainer) -> nnUNetTrainer:
    """Return a trainer of a plan, on the scans that our own plan preprocessed to the same grid."""
    plan = json.loads(path.read_text())
    configuration = plan["configurations"]["3d_fullres"]
    ours = configuration_of(path.with_name("nnUNetAnatomixPlans.json"))
    assert configuration["spacing"] == ours["spacing"]
    assert configuration["normalization_schemes"] == ours["normalization_schemes"]
    configuration |= {"data_identifier": ours["data_identifier"], "batch_size": 2}
    description = json.loads(path.with_name("dataset.json").read_text())
    return kind(plan | {"continue_training": False}, "3d_fullres", 0, description, torch.device("cpu"))


def test_plan_training_and_stock_prediction(hippocampus, unet, monkeypatch):
    monkeypatch.setenv("ANATOMIX_SEED", "1")
    path = write_plan("901", weights=unet(), plans_name="nnUNetAnatomixPlans_unet")
    trainer = trainer_of(hippocampus, path)
    trainer.on_train_start()
    network = trainer.network
    assert isinstance(network, OtherNetwork)
    pretrained = torch.load(path.parents[2] / UNET.state)
    assert all(torch.equal(network.network.state_dict()[name], value) for name, value in pretrained.items())
    with open(trainer.log_file) as file:
        assert "2 missing and left as initialized (decoder.seg_layers.0.weight" in file.read()
    batch = next(trainer.dataloader_val)
    assert np.isfinite(trainer.train_step(batch)["loss"])
    first = next(iter(pretrained))
    assert not torch.equal(network.network.state_dict()[first], pretrained[first]), "all layers are trained"
    trainer.on_train_end()

    predictor = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    patch = batch["data"][0]
    network.eval()
    with torch.no_grad():
        expected = network(patch[None])[0]
    found = predictor.predict_logits_from_preprocessed_data(patch)
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)

    scratch = trainer_of(hippocampus, path, AnatomixTrainerScratch)
    scratch.initialize()
    assert not torch.equal(scratch.network.network.state_dict()[first], pretrained[first])


def test_sizes_spacing_and_digest_come_from_the_file(hippocampus, unet):
    name = "nnUNetAnatomixPlans_unet"
    path = write_plan("901", weights=unet(multiple=32, spacing_mm=(2.0, 1.5, 1.5)), plans_name=name)
    configuration = configuration_of(path)
    assert configuration["spacing"] == [2.0, 1.5, 1.5] and all(side % 32 == 0 for side in configuration["patch_size"])
    assert write_plan("901", weights=unet(spacing_mm=(2.0, 1.5, 1.5)), plans_name=name, spacing_mm=(1.0, 1.0, 1.0))
    assert configuration_of(path)["spacing"] == [1.0, 1.0, 1.0]
    write_plan("901", weights=unet(max_side=16), plans_name=name)
    assert configuration_of(path)["patch_size"] == [16, 16, 16]
    assert json.loads(path.read_text())["anatomix"]["weights"].endswith("unet_max_side.json")
    small = resize_patch(json.loads(path.read_text()), 8, 1)["configurations"]["3d_fullres"]
    assert small["patch_size"] == [8, 8, 8] and "patch_size" not in small["architecture"]["arch_kwargs"]


def test_a_network_of_one_size_follows_the_patch():
    kwargs = {"strides": [[1, 1, 1], [8, 8, 8]], "patch_size": [96, 96, 96]}
    configuration = {"patch_size": [96, 96, 96], "batch_size": 4, "architecture": {"arch_kwargs": kwargs}}
    plan = {"plans_name": "plans", "configurations": {"3d_fullres": configuration}}
    for changed in (resize_patch(plan, 40, None), resize_patch(plan, None, None, (40, 40, 40))):
        small = changed["configurations"]["3d_fullres"]
        assert small["patch_size"] == small["architecture"]["arch_kwargs"]["patch_size"] == [40, 40, 40]


def test_what_cannot_be_planned_is_said_in_one_line(hippocampus, unet):
    unusual = {"own": "running", "running": "own"}[DEFAULT_STATISTICS]
    for changes, message in (
        ({"weights": "hf://somebody/nets/net.json@main"}, "names code that training would run"),
        ({"weights": unet(), "architecture": "anatomix_dev"}, "describes its own network; omit --architecture"),
        ({"weights": unet(), "statistics": unusual}, "describes its own network"),
        (
            {"weights": unet(network="monai.networks.nets.resnet10", kwargs={})},
            "expected a subclass of .*; training calls nothing else",
        ),
        ({"weights": unet(layer="model.7")}, "no layer 'model.7'"),
        ({"weights": unet(kwargs=UNET.kwargs | {"in_channels": 2})}, "fails on a cube of 32 voxels"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            write_plan("901", **changes)
        assert "\n" not in str(raised.value)


def test_a_plan_and_our_own_weights_do_not_mix(hippocampus, unet, weights_file, monkeypatch):
    path = write_plan("901", weights=unet(), plans_name="nnUNetAnatomixPlans_unet")
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    with pytest.raises(
        StoppedByInput, match=r"weights are for our backbone, the plan is for monai\.networks\.nets\.UNet"
    ):
        trainer_of(hippocampus, path).initialize()
