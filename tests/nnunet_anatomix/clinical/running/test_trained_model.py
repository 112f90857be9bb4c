"""Which trained model a text names."""

from __future__ import annotations

import pytest

from nnunet_anatomix.clinical.running.trained_model import find_trained_model
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.clinical.miniature_model import write_model


def test_a_folder_a_fold_a_dataset_and_its_id_name_the_same_model(nnunet, monkeypatch, tmp_path):
    model = write_model(nnunet.results / "Dataset777_Mini", folds=("0", "1"))
    for text in (model, model.parent, "777", "Dataset777_Mini", model / "dataset.json"):
        found = find_trained_model(str(text))
        assert (found.folder, found.folds, found.name) == (model.resolve(), ("0", "1"), "Dataset777_Mini")
    monkeypatch.chdir(tmp_path)
    assert find_trained_model(str(model / "fold_1")).folds == ("1",)
    assert find_trained_model(str(model), ["0"]).folds == ("0",)


def test_without_numbered_folds_the_fold_of_all_cases_predicts(tmp_path):
    assert find_trained_model(str(write_model(tmp_path / "Dataset777_Mini"))).folds == ("all",)


def test_other_weights_give_another_fingerprint(tmp_path):
    one, same, other = (
        find_trained_model(str(write_model(tmp_path / name / "Dataset777_Mini", seed=seed)))
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    other_fingerprint = other.fingerprint
    assert set(one.sha256) == {"dataset.json", "plans.json", "fold_all/checkpoint_final.pth"}
    assert one.fingerprint == same.fingerprint != other.fingerprint
    weights = "fold_all/checkpoint_final.pth"
    (other.folder / weights).replace(one.folder / weights)  # while a service runs
    assert one.fingerprint == other_fingerprint


def test_what_is_no_single_trained_model_is_refused(tmp_path):
    model = write_model(tmp_path / "Dataset777_Mini", folds=("0",))
    with pytest.raises(InputError, match="no trained fold 3; found 0"):
        find_trained_model(str(model), ["3"])
    cascade = write_model(tmp_path / "Dataset777_Mini", configuration="cascade")
    with pytest.raises(InputError, match=r"several models.*3d_cascade_fullres.*3d_fullres"):
        find_trained_model(str(model.parent))
    with pytest.raises(InputError, match="needs predictions of 3d_lowres"):
        find_trained_model(str(cascade))
    (model / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(InputError, match="no trained model"):
        find_trained_model(str(model))
