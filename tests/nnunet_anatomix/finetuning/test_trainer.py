"""AnatomixTrainer in stock nnU-Net, on real preprocessed scans."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.augmentation.config import AugmentationConfig
from nnunet_anatomix.finetuning.augmentation.pipeline import finetuning_augmentation
from nnunet_anatomix.finetuning.base_trainer import rank_seed
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.recipe import default_learning_rate
from nnunet_anatomix.finetuning.stock import AnatomixTrainerStock
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer, AnatomixTrainerPaper, AnatomixTrainerScratch
from pretraining.backbone.instance_norm import InstanceNorm
from pretraining.backbone.weights import load_weights
from pretraining.common.errors import InputError

NAME = "Dataset901_Hippocampus"


@pytest.fixture
def hippocampus(nnunet, planned_hippocampus, weights_file, monkeypatch):
    """Return nnU-Net's folders with the planned Dataset901, and set the weights."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return nnunet


def trainer_of(
    folders, kind=AnatomixTrainer, plans="nnUNetAnatomixPlans", fold=0, resume=False, edit=None, batch=2
) -> nnUNetTrainer:
    base = folders.preprocessed / NAME
    plan, description = (json.loads((base / f"{name}.json").read_text()) for name in (plans, "dataset"))
    plan["continue_training"] = resume
    if batch:  # the plans have up to 9, seconds a step
        plan["configurations"]["3d_fullres"]["batch_size"] = batch
    if edit:
        edit(plan, description)
    return kind(plan, "3d_fullres", fold, description, torch.device("cpu"))


def log_of(trainer) -> str:
    with open(trainer.log_file) as file:
        return file.read()


@pytest.mark.parametrize("plans", ["nnUNetPlans", "nnUNetAnatomixPlans"])
def test_training_and_stock_prediction_get_the_same_input(hippocampus, plans):
    trainer = trainer_of(hippocampus, plans=plans)
    trainer.on_train_start()
    batch = next(trainer.dataloader_val)
    trainer.train_step(batch)
    trainer.on_train_end()

    # Without tile weights: in their corners, they underflow in nnU-Net's half-precision sums.
    predictor = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    assert predictor.allowed_mirroring_axes is None
    patch = batch["data"][0]
    trainer.network.eval()
    with torch.no_grad():
        expected = trainer.network(patch[None])[0]
    found = predictor.predict_logits_from_preprocessed_data(patch)
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)


def test_only_the_head_is_random_and_the_log_says_so(hippocampus, weights_file):
    trainer = trainer_of(hippocampus, plans="nnUNetPlans")
    trainer.initialize()
    weights = load_weights(weights_file)
    state = trainer.network.backbone.state_dict()  # normalizes each patch by its own statistics
    assert set(weights.state) - set(state) == {
        f"{name}.{running}"
        for name, module in trainer.network.backbone.named_modules()
        if isinstance(module, InstanceNorm)
        for running in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert all(torch.equal(tensor, weights.state[name]) for name, tensor in state.items())
    log = log_of(trainer)
    assert (
        weights.sha256 in log
        and "2 missing and left as initialized (decoder.seg_layers.0.weight, decoder.seg_layers.0.bias)" in log
    )


def test_scratch_differs_only_in_the_weights(hippocampus, weights_file, monkeypatch):
    monkeypatch.setenv("ANATOMIX_SEED", "3")
    pretrained = trainer_of(hippocampus)
    pretrained.initialize()
    monkeypatch.setenv("ANATOMIX_WEIGHTS", "/nowhere")
    scratch, again = trainer_of(hippocampus, AnatomixTrainerScratch), trainer_of(hippocampus, AnatomixTrainerScratch)
    scratch.initialize()
    again.initialize()
    assert torch.equal(scratch.network.decoder.seg_layers[0].weight, pretrained.network.decoder.seg_layers[0].weight)
    assert torch.equal(scratch.network.backbone.stem.conv.weight, again.network.backbone.stem.conv.weight)
    assert not torch.equal(scratch.network.backbone.stem.conv.weight, pretrained.network.backbone.stem.conv.weight)
    assert "pretrained weights" not in log_of(scratch)


def test_the_trainer_applies_the_recipe(hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_ITERATIONS", "254")
    trainer = trainer_of(hippocampus, batch=None)
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (10, 26, 5)
    assert trainer.batch_size == 4 and not trainer.enable_deep_supervision
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    rates = {group["stage"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates["stem"] == pytest.approx(default_learning_rate(254)) and rates["head"] == 10 * rates["stem"]
    trainer.current_epoch = 9
    trainer.on_train_epoch_start()
    assert trainer.num_iterations_per_epoch == 20


def test_ranks_draw_different_batches_from_one_seed(hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_SEED", "11")
    draws = set()
    for rank in (0, 1, 2):
        trainer = trainer_of(hippocampus)
        trainer.local_rank = rank
        trainer.initialize()
        draws.add((float(np.random.rand()), float(torch.rand(1))))  # noqa: NPY002
    assert len(draws) == 3
    assert rank_seed(11, 0) == 11 and rank_seed(11, 1) == rank_seed(11, 1) != rank_seed(12, 1)


@pytest.mark.parametrize("kind", [AnatomixTrainer, AnatomixTrainerStock])
def test_the_log_has_a_line_a_minute_and_no_plotting_error(hippocampus, monkeypatch, kind, capsys):
    monkeypatch.setenv("ANATOMIX_ITERATIONS", "40")
    plans = "nnUNetAnatomixPlans" if kind is AnatomixTrainer else "nnUNetPlans"
    trainer = trainer_of(hippocampus, kind=kind, plans=plans, fold="all")
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda self, batch: {"loss": np.float32(0.25)})
    seconds = iter(range(0, 10_000, 25))
    monkeypatch.setattr("nnunet_anatomix.finetuning.base_trainer.monotonic", lambda: next(seconds))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    for _ in range(4):
        trainer.train_step({})
    lines = [line for line in log_of(trainer).splitlines() if "iteration" in line and "loss" in line]
    assert len(lines) == 1 and "epoch 0 of 10: iteration 3 of 4, 25 s each, loss 0.2500" in lines[0]
    assert lines[0].split(": ", 1)[1].strip() in capsys.readouterr().out, "a log without a terminal has the line too"
    assert "Unable to plot" not in log_of(trainer) and "hiddenlayer" not in log_of(trainer)


@pytest.mark.parametrize("kind", [AnatomixTrainer, AnatomixTrainerStock])
def test_fold_all_is_validated_only_on_request(hippocampus, monkeypatch, kind):
    validated = []
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, *_: validated.append(self.fold))

    def add_stage(plan, description) -> None:
        plan["configurations"]["3d_fullres"]["next_stage"] = "3d_cascade_fullres"

    for fold, trains, edit in (("all", False, None), ("all", True, add_stage), ("all", True, None), (0, True, None)):
        trainer = trainer_of(hippocampus, kind=kind, fold=fold, edit=edit)
        if trains:
            monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
            trainer.on_train_start()
        trainer.perform_actual_validation()
        assert ("so it is not validated" in log_of(trainer)) is (trains and fold == "all" and edit is None)
    assert validated == ["all", "all", 0]


def _initialized(folders) -> AnatomixTrainer:
    trainer = trainer_of(folders)
    trainer.initialize()
    return trainer


def _transforms(trainer, axes: tuple[int, ...] | None) -> BasicTransform:
    limits, in_plane, _, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    patch_size = trainer.configuration_manager.patch_size
    return trainer.get_training_transforms(patch_size, limits, None, axes, in_plane, use_mask_for_norm=[False])


def _augment(transform: BasicTransform, patch: torch.Tensor) -> torch.Tensor:
    """Augment a patch without labels, from fixed random states."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    return transform(image=patch.clone(), segmentation=torch.zeros(patch.shape, dtype=torch.int16))["image"]


def test_the_default_augmentation_is_nnunets_without_mirroring_on_z_scores(hippocampus):
    ours, stock = trainer_of(hippocampus), trainer_of(hippocampus, nnUNetTrainer)
    axes = ours.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3]
    patch = torch.rand(1, 60, 80, 60)
    expected = _augment(_transforms(stock, None), (patch - patch.mean()) / patch.std())
    torch.testing.assert_close(_augment(_transforms(ours, axes), patch), expected)


def test_the_papers_trainer_has_table_9_one_rate_and_batch_statistics_on_the_same_plan(hippocampus):
    paper, patch = trainer_of(hippocampus, AnatomixTrainerPaper), torch.rand(1, 68, 91, 68)
    paper.initialize()
    norms = [type(trainer.network.backbone.stem.norm) for trainer in (paper, _initialized(hippocampus))]
    assert norms == [torch.nn.BatchNorm3d, InstanceNorm]
    assert len({group["lr"] for group in paper.optimizer.param_groups}) == 1
    assert paper.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[2] == list(patch.shape[1:])
    table9 = finetuning_augmentation(
        AugmentationConfig(), (48, 64, 48), (1, 1, 1), ("mr",), nnUNetTrainer.get_validation_transforms(None)
    )
    assert torch.equal(_augment(_transforms(paper, None), patch), _augment(table9, patch))


def test_a_stock_plan_has_own_statistics_and_an_older_checkpoint_its_running_averages(hippocampus):
    ours = trainer_of(hippocampus, plans="nnUNetPlans")
    ours.initialize()
    assert isinstance(ours.network.backbone.stem.norm, InstanceNorm)
    older = AnatomixNetwork(1, 3)
    with torch.no_grad():
        for module in older.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    optimized = {id(parameter) for group in ours.optimizer.param_groups for parameter in group["params"]}
    ours.network.load_state_dict(older.state_dict())
    assert {id(parameter) for parameter in ours.network.parameters()} == optimized, "training can be resumed"
    scan = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.network.eval()(scan), older.eval()(scan), atol=0.05, rtol=0.05)


def test_same_seed_same_batches_and_same_losses(hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_SEED", "11")

    def losses() -> list[float]:
        trainer = trainer_of(hippocampus, plans="nnUNetPlans")
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(2)]

    assert losses() == losses()


def test_a_checkpoint_resumes_without_the_weights_file(hippocampus, monkeypatch):
    trainer = trainer_of(hippocampus)
    trainer.initialize()
    trainer.current_epoch = 3
    for key in ("mean_fg_dice", "train_losses", "val_losses", "lrs", "epoch_start_timestamps", "epoch_end_timestamps"):
        trainer.logger.log(key, 0.5, 0)
    checkpoint = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(checkpoint)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", "/nowhere")
    resumed = trainer_of(hippocampus, resume=True)
    resumed.load_checkpoint(checkpoint)
    assert resumed.current_epoch == 4
    assert torch.equal(resumed.network.decoder.seg_layers[0].weight, trainer.network.decoder.seg_layers[0].weight)
    resumed.on_train_epoch_start()
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * 0.5 * (1 + np.cos(np.pi * 4 / 150)))


def test_a_failed_write_keeps_the_previous_checkpoint(hippocampus, monkeypatch):
    trainer = trainer_of(hippocampus)
    trainer.initialize()
    checkpoint = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(checkpoint)

    def dying(content, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.torch.save", dying)
    with pytest.raises(OSError, match="disk full"):
        trainer.save_checkpoint(checkpoint)
    monkeypatch.undo()
    assert "network_weights" in torch.load(checkpoint, weights_only=False)
    assert [path.name for path in hippocampus.results.rglob("*.pth")] == ["checkpoint_latest.pth"]


@pytest.mark.parametrize("count, folds", [(1, 1), (2, 2), (3, 3)])
def test_few_cases_get_leave_one_out_folds_in_training(hippocampus, count, folds):
    folder = hippocampus.preprocessed / NAME / "nnUNetAnatomixPlans_3d_fullres"
    for case in sorted({path.name.split(".")[0].removesuffix("_seg") for path in folder.iterdir()})[count:]:
        for path in folder.glob(f"{case}*"):
            path.unlink()
    trainer = trainer_of(hippocampus, fold=folds - 1)
    train, validation = trainer.do_split()
    assert len(train) == max(1, count - 1) and len(validation) == 1
    assert len(json.loads((hippocampus.preprocessed / NAME / "splits_final.json").read_text())) == folds
    assert ("does not predict accuracy on new scans" in log_of(trainer)) == (count == 1)
    (hippocampus.preprocessed / NAME / "splits_final.json").unlink()
    with pytest.raises(InputError, match=f"fold {folds} does not exist"):
        trainer_of(hippocampus, fold=folds).do_split()
    everything, _ = trainer_of(hippocampus, fold="all").do_split()
    assert len(everything) == count


def test_stock_trainers_run_the_plan_with_deep_supervision(hippocampus):
    trainer_of(hippocampus).do_split()
    trainer = trainer_of(hippocampus, nnUNetTrainer)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert [tuple(target.shape[2:]) for target in batch["target"]] == [
        (48, 64, 48),
        (24, 32, 24),
        (12, 16, 12),
        (6, 8, 6),
    ]
    assert np.isfinite(trainer.train_step(batch)["loss"])
    trainer.on_train_end()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    assert predictor.predict_logits_from_preprocessed_data(batch["data"][0]).shape == (3, 48, 64, 48)


def _head_first(plan, description):
    plan["anatomix"]["schedule"] = {"trained": "head_first", "head_share": 0.5}


def _frozen(plan, description):
    plan["anatomix"]["schedule"] = {"trained": "frozen_encoder", "layer_decay": 0.5}


@pytest.mark.parametrize(
    "edit, learning", [(None, {"decoder", "stem"}), (_head_first, {"decoder"}), (_frozen, {"decoder", "output"})]
)
def test_the_plans_schedule_selects_the_trained_stages(edit, learning, hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_ITERATIONS", "4")
    trainer = trainer_of(hippocampus, edit=edit)
    trainer.on_train_start()
    before = {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    changed = {
        name for name, parameter in trainer.network.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert ("backbone.stem.conv.weight" in changed) == ("stem" in learning)
    assert ("backbone.output.weight" in changed) == (edit is not _head_first)
    assert "decoder.seg_layers.0.weight" in changed


def _regions(plan, description):
    description |= {"labels": {"background": 0, "whole": [1, 2], "posterior": 2}, "regions_class_order": [1, 2]}


def test_regions_are_learned(hippocampus):
    trainer = trainer_of(hippocampus, edit=_regions)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert trainer.network.decoder.seg_layers[0].out_channels == 2 == batch["target"].shape[1]
    assert set(batch["target"].unique().tolist()) <= {0, 1} and batch["data"].isfinite().all()
    assert np.isfinite(trainer.train_step(batch)["loss"]) and np.isfinite(
        trainer.validation_step(next(trainer.dataloader_val))["loss"]
    )


def test_stock_trainers_run_the_plan_without_deep_supervision(hippocampus):
    from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
        nnUNetTrainerNoDeepSupervision,
    )

    trainer_of(hippocampus).do_split()
    trainer = trainer_of(hippocampus, nnUNetTrainerNoDeepSupervision)
    trainer.on_train_start()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def _drop_3d(plan, description):
    plan["configurations"]["3d_fullres"]["patch_size"] = [40, 40]


def _no_labels(plan, description):
    description["labels"] = {"background": 0}


def _unknown_key(plan, description):
    plan["anatomix"]["iteration"] = 3


def _rename(plan, description):
    plan["configurations"] = {"2d": plan["configurations"]["3d_fullres"]}


@pytest.mark.parametrize(
    "edit, environment, message",
    [
        (_drop_3d, {}, "is 3D"),
        (_no_labels, {}, "no foreground label"),
        (_unknown_key, {}, "unknown keys"),
        (_rename, {}, "no configuration '3d_fullres'"),
        (None, {"ANATOMIX_WEIGHTS": "/nowhere/weights.safetensors"}, "no such file"),
        (None, {"ANATOMIX_ITERATIONS": "-3"}, "ANATOMIX_ITERATIONS"),
        (None, {"ANATOMIX_SEED": "one"}, "ANATOMIX_SEED"),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_is_written(edit, environment, message, hippocampus, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoppedByInput, match=message) as caught:
        trainer_of(hippocampus, edit=edit)
    assert isinstance(caught.value, InputError) and isinstance(caught.value, SystemExit)
    assert "\n" not in str(caught.value.code) and not list(hippocampus.results.iterdir())


@pytest.mark.parametrize(("iterations", "epochs", "an_epoch"), [(25, 9, 3), (4, 4, 1), (2600, 11, 250)])
def test_stock_training_takes_exactly_as_many_steps_and_lowers_its_rate(
    hippocampus, monkeypatch, iterations, epochs, an_epoch
):
    monkeypatch.setenv("ANATOMIX_ITERATIONS", str(iterations))
    trainer = trainer_of(hippocampus, kind=AnatomixTrainerStock, plans="nnUNetPlans")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (epochs, an_epoch)
    trainer.initialize()
    steps, rates = 0, []
    for _ in range(trainer.num_epochs):
        trainer.on_train_epoch_start()
        steps += trainer.num_iterations_per_epoch
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.current_epoch += 1
    assert steps == iterations and rates == sorted(rates, reverse=True) and rates[-1] < rates[0] / 2


def test_stock_training_is_stock_except_its_length_and_reproducible_by_seed(hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_SEED", "3")
    twins = [trainer_of(hippocampus, kind=AnatomixTrainerStock, plans="nnUNetPlans") for _ in range(2)]
    for trainer in twins:
        trainer.initialize()
    one, other = (trainer.network.state_dict() for trainer in twins)
    assert all(torch.equal(one[name], other[name]) for name in one)
    stock = trainer_of(hippocampus, kind=nnUNetTrainer, plans="nnUNetPlans")
    assert (
        twins[0].num_epochs == stock.num_epochs and twins[0].num_iterations_per_epoch == stock.num_iterations_per_epoch
    )
    assert twins[0].enable_deep_supervision == stock.enable_deep_supervision and twins[0].initial_lr == stock.initial_lr


def test_stock_training_refuses_an_invalid_length(hippocampus, monkeypatch):
    monkeypatch.setenv("ANATOMIX_ITERATIONS", "none")
    with pytest.raises(StoppedByInput, match="ANATOMIX_ITERATIONS must be"):
        trainer_of(hippocampus, kind=AnatomixTrainerStock, plans="nnUNetPlans")
