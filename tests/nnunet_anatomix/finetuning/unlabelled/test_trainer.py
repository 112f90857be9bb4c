"""AnatomixTrainer on a plan with unlabelled scans."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer, AnatomixTrainerPaper
from nnunet_anatomix.finetuning.unlabelled.folder import CONFIDENCE, LabelSet, write_sets

NAME, PLANS = "Dataset901_Hippocampus", "nnUNetAnatomixPlans"


@pytest.fixture
def folders(nnunet, planned_hippocampus, weights_file, monkeypatch):
    """Return nnU-Net's folders with the planned Dataset901, whose third case is unlabelled."""
    base = nnunet.preprocessed / NAME
    shutil.copytree(planned_hippocampus / NAME, base)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    scans = base / f"{PLANS}_3d_fullres"
    first, second, third = sorted(nnUNetDatasetBlosc2.get_identifiers(str(scans)))
    chosen = base / f"{PLANS}_unlabelled" / "fold_0"
    chosen.mkdir(parents=True)
    for path in scans.glob(f"{third}*"):
        path.rename(chosen / path.name)
    (chosen / CONFIDENCE).mkdir()
    shape = nnUNetDatasetBlosc2(str(chosen)).load_case(third)[0].shape[1:]
    nnUNetDatasetBlosc2.save_seg(np.full(shape, 40, np.int8), str(chosen / CONFIDENCE / third))
    write_sets(chosen.parent, {"fold_0": LabelSet(labelled=(second,), weights={third: 0.8})})
    folds = [{"train": [second], "val": [first]}, {"train": [first], "val": [second]}]
    (base / "splits_final.json").write_text(json.dumps(folds))
    return nnunet


def trainer_of(folders, kind=AnatomixTrainer, fold: int | str = 0, **changes) -> nnUNetTrainer:
    base = folders.preprocessed / NAME
    plan, description = (json.loads((base / f"{name}.json").read_text()) for name in (PLANS, "dataset"))
    configuration = plan["configurations"]["3d_fullres"]
    configuration |= {"batch_size": 4, "patch_size": [16, 16, 16], **changes}
    plan["continue_training"] = False
    plan["anatomix"]["unlabelled"] = f"{PLANS}_unlabelled"
    return kind(plan, "3d_fullres", fold, description, torch.device("cpu"))


@pytest.mark.parametrize("kind", [AnatomixTrainer, AnatomixTrainerPaper])
def test_training_draws_both_kinds_of_scans_and_validation_labelled_ones_alone(folders, kind):
    trainer = trainer_of(folders, kind)
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    drawn = [batch for batch, _ in zip(training, range(8), strict=False)]
    values = [int(target[1].min()) for batch in drawn for target in batch["target"]]
    assert all(batch["target"].shape == (4, 2, 16, 16, 16) for batch in drawn)
    assert set(values) <= {39, 40, 41, 100} and 8 <= values.count(100) <= 26
    assert next(validation)["target"].shape[1] == 1
    assert np.isfinite(trainer.train_step(drawn[0])["loss"])
    assert np.isfinite(trainer.validation_step(next(validation))["loss"])


def test_labels_made_for_another_fold_or_grid_are_refused_with_one_line(folders):
    command = rf"run: nnunet-anatomix enlarge -d 901 -p {PLANS}$"
    for fold, problem in ((1, "fold 1 from no case, but .* trains on hippocampus_048"), ("all", "fold all from no")):
        trainer = trainer_of(folders, fold=fold)
        with pytest.raises(StoppedByInput, match=f"{problem}.*{command}"):
            trainer.get_tr_and_val_datasets()
    path = folders.preprocessed / NAME / "splits_final.json"
    folds = json.loads(path.read_text())
    path.write_text(json.dumps(folds[::-1]))
    with pytest.raises(StoppedByInput, match=rf"fold 0 from hippocampus_233, but .*_048; {command}"):
        trainer_of(folders).get_tr_and_val_datasets()
    with pytest.raises(StoppedByInput, match=rf"planned anew .*spacing: \[2, 2, 2\], now .*{command}"):
        trainer_of(folders, spacing=[2, 2, 2]).get_tr_and_val_datasets()
