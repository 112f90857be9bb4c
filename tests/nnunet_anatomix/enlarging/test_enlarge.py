"""Command ``enlarge`` on small anatomies: labels of every fold, preprocessed scans, the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

import nnunet_anatomix.enlarging.enlarge as enlarge_module
import nnunet_anatomix.enlarging.label_sets as label_sets_module
from nnunet_anatomix.enlarging.enlarge import Enlarger, EnlargeRequest, run_enlarging
from nnunet_anatomix.finetuning.dataset import find_dataset
from nnunet_anatomix.finetuning.planning import write_plan
from nnunet_anatomix.finetuning.unlabelled.folder import CONFIDENCE, read_sets
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from tests.in_process import run_here
from tests.nnunet_anatomix.propagation.test_propagate import anatomy

NAME, PLANS = "Dataset044_Organs", "nnUNetAnatomixPlans"


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


@pytest.fixture
def organs(nnunet) -> SimpleNamespace:
    """Return a planned dataset of three labelled scans, and two unlabelled ones, one of noise."""
    raw = nnunet.raw / NAME
    for seed in (1, 2, 3):
        scan, labels = anatomy(seed)
        write(raw / f"imagesTr/c{seed}_0000.nii.gz", scan)
        write(raw / f"labelsTr/c{seed}.nii.gz", labels)
    write(raw / "imagesUn/alike_0000.nii.gz", anatomy(7)[0])
    noise = np.random.default_rng(0).standard_normal(anatomy(7)[0].shape).astype(np.float32)
    write(raw / "imagesUn/noise_0000.nii.gz", noise)
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    plan = write_plan("44")
    return SimpleNamespace(raw=raw, plan=plan, folder=plan.parent / f"{PLANS}_unlabelled", un=raw / "imagesUn")


def enlarge(**changes) -> Path:
    return run_enlarging(EnlargeRequest(dataset="44", device="cpu", **changes))


@pytest.fixture
def one_scan(organs, monkeypatch) -> SimpleNamespace:
    """Leave out the noise and the estimate of the Dice, which takes most of the time."""
    (organs.un / "noise_0000.nii.gz").unlink()
    monkeypatch.setattr(enlarge_module, "choose_settings", lambda scans, request, settings: settings)
    return organs


def labels_of(folder: Path, name: str = "alike") -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels" / f"{name}.nii.gz")))


def test_scans_like_the_labelled_ones_join_and_others_are_named(organs, monkeypatch):
    result = run_here("nnunet-anatomix", "enlarge", "-d", "44", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "1 doubtful scans are left out: noise" in result.stderr and "1 unlabelled scans join" in result.stderr
    assert f"nnUNetv2_train {NAME} 3d_fullres all -tr AnatomixTrainer -p {PLANS}Enlarged" in result.stderr
    sets = read_sets(organs.folder)
    assert {name: one.labelled for name, one in sets.items()} == {
        "all": ("c1", "c2", "c3"),
        "fold_0": ("c2", "c3"),
        "fold_1": ("c1", "c3"),
        "fold_2": ("c1", "c2"),
    }
    assert list(sets["all"].weights) == ["alike"] and 0.7 < sets["all"].weights["alike"] <= 1
    plan, enlarged = (json.loads(organs.plan.with_stem(f"{PLANS}{end}").read_text()) for end in ("", "Enlarged"))
    assert enlarged["anatomix"].pop("unlabelled") == organs.folder.name and plan["anatomix"].pop("unlabelled") is None
    assert enlarged.pop("plans_name") == f"{PLANS}Enlarged" and plan.pop("plans_name") == PLANS
    assert enlarged == plan, "labelled scans and network are the same"

    folder = organs.folder / "all"
    image, labels, confidence, properties = nnUNetDatasetBlosc2(
        str(folder), folder_with_segs_from_previous_stage=str(folder / CONFIDENCE)
    ).load_case("alike")
    assert image.shape[1:] == labels.shape[1:] == confidence.shape and confidence.dtype == np.int8
    assert 0 <= confidence[:].min() < 50 and confidence[:].max() == 100
    assert all(len(properties["class_locations"][label]) > 0 for label in (1, 2))
    wrong = labels_of(folder) != anatomy(7)[1]
    map_ = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels" / CONFIDENCE / "alike.nii.gz")))
    assert wrong[map_ < 60].mean() > 3 * wrong[map_ >= 60].mean(), "doubtful voxels are wrong more often"
    images = [organs.folder / name / "alike.b2nd" for name in sets]
    assert len({path.stat().st_ino for path in images}) == 1, "the image is stored once"

    monkeypatch.setattr(label_sets_module, "register_atlases", None)
    enlarge()  # a finished call computes nothing again


def test_labels_for_a_fold_do_not_depend_on_its_left_out_scan(one_scan):
    enlarge()
    before = {name: labels_of(one_scan.folder / name) for name in ("all", "fold_0", "fold_1")}
    write(one_scan.raw / "labelsTr/c1.nii.gz", np.roll(anatomy(1)[1], 2, axis=0))
    enlarge()
    same = {name: np.array_equal(labels_of(one_scan.folder / name), old) for name, old in before.items()}
    assert same == {"all": False, "fold_0": True, "fold_1": False}


def test_a_network_takes_part_where_it_is_given(one_scan):
    dataset = find_dataset("44")
    enlarger = Enlarger(dataset, one_scan.un, one_scan.plan, "cpu")
    enlarger.enlarge()
    alone, first = labels_of(one_scan.folder / "all"), enlarger.digest()
    predictions = one_scan.raw / "predicted"
    write(predictions / "alike.nii.gz", np.where(alone == 1, 2, alone))
    enlarger.enlarge({"all": predictions})
    joint = labels_of(one_scan.folder / "all")
    assert np.array_equal(joint, np.where(alone == 1, 2, alone)) and enlarger.digest() != first
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(one_scan.folder / "all/labels" / CONFIDENCE / "alike.nii.gz")))
    assert found[alone == 2].min() >= 50 >= found[alone == 1].max()
    enlarger.enlarge()
    assert enlarger.digest() == first, "without the network, labels are as before"


def test_a_stopped_call_resumes_and_no_training_reads_half_of_it(one_scan, monkeypatch):
    enlarge()
    write(one_scan.un / "late_0000.nii.gz", anatomy(8)[0])
    register = label_sets_module.register_atlases

    def stopped(scans, case, channels, settings):
        if case == "late":
            raise KeyboardInterrupt
        return register(scans, case, channels, settings)

    with monkeypatch.context() as patch:
        patch.setattr(label_sets_module, "register_atlases", stopped)
        with pytest.raises(Interrupted, match="run the same command again"):
            enlarge()
    assert list(read_sets(one_scan.folder)["all"].weights) == ["alike"], "the earlier labels are whole"
    save = nnUNetDatasetBlosc2.save_seg
    with monkeypatch.context() as patch:
        patch.setattr(nnUNetDatasetBlosc2, "save_seg", _stop)
        with pytest.raises(Interrupted):
            enlarge()
    assert read_sets(one_scan.folder) == {}
    assert nnUNetDatasetBlosc2.save_seg is save
    enlarge()
    assert list(read_sets(one_scan.folder)["all"].weights) == ["alike", "late"]


def _stop(*_, **__) -> None:
    raise KeyboardInterrupt


def _copy_labelled(organs) -> None:
    shutil.copy(organs.raw / "imagesTr/c2_0000.nii.gz", organs.un / "other_0000.nii.gz")


def _cut_off(organs) -> None:
    (organs.un / "noise_0000.nii.gz").unlink()
    (organs.un / "broken_0000.nii.gz").write_bytes((organs.un / "alike_0000.nii.gz").read_bytes()[:500])


def _noise_alone(organs) -> None:
    (organs.un / "alike_0000.nii.gz").unlink()


def _empty(organs) -> None:
    for path in organs.un.iterdir():
        path.unlink()


def _damage_folds(organs) -> None:
    (organs.plan.parent / "splits_final.json").write_text("{")


def _second_channel(organs) -> None:
    described = json.loads((organs.raw / "dataset.json").read_text())
    (organs.raw / "dataset.json").write_text(json.dumps({**described, "channel_names": {"0": "T1", "1": "T2"}}))
    for path in (organs.raw / "imagesTr").iterdir():
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))


@pytest.mark.parametrize(
    ("edit", "error", "line"),
    [
        (lambda organs: shutil.rmtree(organs.un), InputError, "--unlabelled: no folder .*imagesUn"),
        (_empty, InputError, "--unlabelled: expected scans named CASE_0000.nii.gz in .*imagesUn, found none"),
        (_second_channel, InputError, "--unlabelled: case 'alike' has no alike_0001.nii.gz, and .* has 2 channels"),
        (_damage_folds, InputError, "does not contain folds in nnU-Net's format"),
        (_copy_labelled, InputError, "found other_0000.nii.gz, whose content is that of c2_0000.nii.gz in imagesTr"),
        (_cut_off, CommandFailed, "1 of 2 unlabelled scans failed .*: broken: "),
        (_noise_alone, InputError, r"--unlabelled: all 1 scans differ too much .* \(noise\)"),
        (lambda organs: organs.plan.unlink(), InputError, "found none; run: nnunet-anatomix plan-and-preprocess -d 44"),
    ],
)
def test_bad_input_is_one_line(organs, edit, error, line):
    edit(organs)
    with pytest.raises(error, match=line) as caught:
        enlarge()
    assert "\n" not in str(caught.value)
    assert not organs.plan.with_stem(f"{PLANS}Enlarged").exists()


def test_one_labelled_scan_is_too_few(organs):
    for seed in (2, 3):
        (organs.raw / f"imagesTr/c{seed}_0000.nii.gz").unlink()
        (organs.raw / f"labelsTr/c{seed}.nii.gz").unlink()
    with pytest.raises(InputError, match="two labelled scans or more, found 1 in Dataset044_Organs"):
        enlarge()
