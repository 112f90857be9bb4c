"""Short trainings with AnatomixTrainer on cascades, regions, ignored voxels and other labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.network import pooling_strides
from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.plan_template import load_template
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer
from pretraining.backbone.weights import load_weights

NAME = "Dataset901_Hippocampus"


@pytest.fixture
def hippocampus(nnunet, planned_hippocampus, weights_file, monkeypatch):
    """Return nnU-Net's folders with the planned Dataset901, and set the weights."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return nnunet


def trainer_of(
    folders, kind=AnatomixTrainer, plans="nnUNetPlans", configuration="3d_fullres", edit=None
) -> nnUNetTrainer:
    base = folders.preprocessed / NAME
    plan, description = (json.loads((base / f"{name}.json").read_text()) for name in (plans, "dataset"))
    plan["continue_training"] = False
    plan["configurations"]["3d_fullres"]["batch_size"] = 2  # the plans have up to 9: seconds a step
    if edit:
        edit(plan, description)
    return kind(plan, configuration, 0, description, torch.device("cpu"))


def log_of(trainer) -> str:
    with open(trainer.log_file) as file:
        return file.read()


def losses(trainer, iterations: int = 2) -> list[float]:
    """Return the losses of training steps and of one validation step."""
    trainer.on_train_epoch_start()
    steps = [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(iterations)]
    with torch.no_grad():
        return [*steps, float(trainer.validation_step(next(trainer.dataloader_val))["loss"])]


def cascade(plan: dict, description: dict) -> None:
    """Add both stages of a cascade to the plan, on the preprocessed data of 3d_fullres."""
    full = plan["configurations"]["3d_fullres"]
    plan["configurations"]["3d_lowres"] = full | {"next_stage": "3d_cascade_fullres"}
    plan["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def ignoring(plan: dict, description: dict) -> None:
    description["labels"] = {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}


def regions_ignoring(plan: dict, description: dict) -> None:
    description |= {
        "labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3},
        "regions_class_order": [1, 2],
    }


def leave_half_unlabelled(folder: Path) -> None:
    """Change preprocessed cases as if half of each scan were not annotated."""
    data = nnUNetDatasetBlosc2(str(folder))
    for case in data.identifiers:
        image, segmentation, _, properties = data.load_case(case)
        image, segmentation = image[:], segmentation[:].copy()
        segmentation[:, : segmentation.shape[1] // 2] = 3
        properties["class_locations"] |= {
            labels: np.argwhere(np.isin(segmentation, labels))
            for labels in [*properties["class_locations"], (-1, 0, 1, 2)]
        }
        for old in folder.glob(f"{case}*"):
            old.unlink()
        whole = dict.fromkeys(("chunks", "blocks", "chunks_seg", "blocks_seg"), image.shape)
        data.save_case(image, segmentation, properties, str(folder / case), **whole)


def two_channels(plan: dict, description: dict) -> None:
    plan["configurations"]["3d_fullres"] |= {
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [False] * 2,
    }
    description["channel_names"] = {"0": "T1", "1": "T2"}


def test_the_first_stage_of_a_cascade_learns(hippocampus):
    trainer = trainer_of(hippocampus, configuration="3d_lowres", edit=cascade)
    trainer.on_train_start()
    assert np.isfinite(losses(trainer)).all()


@pytest.mark.parametrize("plans", ["nnUNetPlans", pytest.param("nnUNetAnatomixPlans", marks=pytest.mark.slow)])
def test_the_second_stage_of_a_cascade_starts_from_the_images_and_learns_from_labels(plans, hippocampus, weights_file):
    trainer = trainer_of(hippocampus, plans=plans, configuration="3d_cascade_fullres", edit=cascade)
    trainer.initialize()
    stem = trainer.network.backbone.stem.conv.weight
    assert stem.shape[1] == 3 and not stem[:, 1:].any()
    assert torch.equal(stem[:, :1], load_weights(weights_file).state["stem.conv.weight"])
    assert "1 adapted (backbone.stem.conv.weight: 2 beyond the image channels at 0)" in log_of(trainer)

    folder = (
        hippocampus.results
        / NAME
        / f"AnatomixTrainer__{plans}__3d_lowres"
        / "predicted_next_stage"
        / "3d_cascade_fullres"
    )
    folder.mkdir(parents=True)
    given = nnUNetDatasetBlosc2(trainer.preprocessed_dataset_folder)
    for case in given.identifiers:
        segmentation = np.ascontiguousarray(np.clip(given.load_case(case)[1][0], 0, None)).astype(np.uint8)
        nnUNetDatasetBlosc2.save_seg(segmentation, str(folder / case))
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape[1] == 3 and batch["target"].shape[1] == 1
    assert set(batch["data"][:, 1:].unique().tolist()) <= {0.0, 1.0}
    # The labels of the first stage (here the truth) stay aligned with their scan; only training
    # corrupts them.
    validation = next(trainer.dataloader_val)
    assert torch.equal(validation["data"][:, 1:2] == 1, validation["target"] == 1) and (validation["target"] == 1).any()
    assert np.isfinite(losses(trainer)).all()
    assert trainer.network.backbone.stem.conv.weight[:, 1:].any()


@pytest.mark.parametrize(
    "plans, edit, heads", [("nnUNetPlans", regions_ignoring, 2), ("nnUNetAnatomixPlans", ignoring, 3)]
)
def test_ignored_voxels_are_not_a_class_and_do_not_affect_the_loss(plans, edit, heads, hippocampus):
    leave_half_unlabelled(hippocampus.preprocessed / NAME / f"{plans}_3d_fullres")
    trainer = trainer_of(hippocampus, plans=plans, edit=edit)
    trainer.on_train_start()
    assert trainer.network.decoder.seg_layers[0].out_channels == heads
    batch = next(trainer.dataloader_train)
    # Targets of regions have an extra channel that marks ignored voxels.
    ignored = batch["target"][:, -1:] == (3 if edit is ignoring else 1)
    assert ignored.any() and not ignored.all()
    logits = trainer.network(batch["data"]).detach()
    elsewhere = torch.where(ignored, torch.randn_like(logits), logits)
    torch.testing.assert_close(trainer.loss(elsewhere, batch["target"]), trainer.loss(logits, batch["target"]))
    assert np.isfinite(losses(trainer)).all()


def test_several_images_share_the_first_convolution_and_the_log_says_so(hippocampus, weights_file):
    trainer = trainer_of(hippocampus, edit=two_channels)
    trainer.initialize()
    pretrained = load_weights(weights_file).state["stem.conv.weight"]
    torch.testing.assert_close(
        trainer.network.backbone.stem.conv.weight.detach(), pretrained.expand(-1, 2, -1, -1, -1) / 2
    )
    log = log_of(trainer)
    assert "backbone.stem.conv.weight: 1 input channel spread over 2 image channels, divided by 2" in log
    assert "left as initialized (decoder.seg_layers.0.weight, decoder.seg_layers.0.bias)" in log


def test_the_large_networks_style_learns_from_its_published_file(hippocampus, golden, monkeypatch):
    """Use the width and depth of the golden file, and all other settings as shipped."""
    published = golden / "unet_instance_avg_trilinear.pth"
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(published))
    small = load_weights(published).architecture

    def style(plan: dict, description: dict) -> None:
        configuration = plan["configurations"]["3d_fullres"]
        configuration |= {
            "architecture": load_template("anatomix_dev").configuration["architecture"],
            "patch_size": [64, 64, 64],
        }
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments |= {"width": small.width, "poolings": small.poolings, "out_channels": small.out_channels}
        arguments["strides"] = pooling_strides(small.poolings)

    trainer = trainer_of(hippocampus, plans="nnUNetAnatomixPlans", edit=style)
    trainer.on_train_start()
    before = trainer.network.backbone.stem.conv.weight.detach().clone()
    assert np.isfinite(losses(trainer)).all() and not torch.equal(trainer.network.backbone.stem.conv.weight, before)


def fewer_labels(plan: dict, description: dict) -> None:
    description["labels"] = {"background": 0, "hippocampus": [1, 2]}
    description["regions_class_order"] = [1]


def more_labels(plan: dict, description: dict) -> None:
    description["labels"] = {"background": 0, "anterior": 1, "posterior": 2, "elsewhere": 3}


@pytest.mark.parametrize(
    "kind, edit, heads",
    [
        pytest.param(AnatomixTrainer, fewer_labels, 1, marks=pytest.mark.slow),
        (AnatomixTrainer, more_labels, 4),
        pytest.param(nnUNetTrainer, more_labels, 4, marks=pytest.mark.slow),
    ],
)
def test_a_fine_tuned_model_can_be_trained_on_other_labels(kind, edit, heads, hippocampus):
    """Load as ``nnUNetv2_train … -pretrained_weights`` does, after the initialization."""
    plans = "nnUNetAnatomixPlans"
    first = trainer_of(hippocampus, plans=plans)
    first.on_train_start()
    first.train_step(next(first.dataloader_train))
    first.save_checkpoint(f"{first.output_folder}/checkpoint_final.pth")
    second = trainer_of(hippocampus, kind, plans=plans, edit=edit)
    second.initialize()
    head = second.network.decoder.seg_layers[0].weight.detach().clone()
    load_pretrained_weights(second.network, f"{first.output_folder}/checkpoint_final.pth")
    found, expected = second.network.backbone.state_dict(), first.network.backbone.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert second.network.decoder.seg_layers[0].out_channels == heads and torch.equal(
        second.network.decoder.seg_layers[0].weight, head
    )
    second.on_train_start()
    assert np.isfinite(losses(second)).all()


def test_an_nnunet_checkpoint_as_weights_is_refused_with_advice(hippocampus, monkeypatch):
    trainer = trainer_of(hippocampus)
    trainer.initialize()
    checkpoint = f"{trainer.output_folder}/checkpoint_final.pth"
    trainer.save_checkpoint(checkpoint)
    shutil.move(checkpoint, hippocampus.results / "model.pth")
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(hippocampus.results / "model.pth"))
    with pytest.raises(StoppedByInput, match=r"checkpoint of nnU-Net.*-pretrained_weights") as caught:
        trainer_of(hippocampus)
    assert "\n" not in str(caught.value.code)
