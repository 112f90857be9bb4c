"""Scans added, changed or removed after planning are seen by plan, folds, training and study."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunet_anatomix.finetuning.case_record import (
    describe_change,
    digest,
    read_record,
    record_cases,
    write_record,
)
from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.planning import write_plan
from nnunet_anatomix.finetuning.splits import automatic_splits, update_splits
from nnunet_anatomix.finetuning.trainer import AnatomixTrainer
from pretraining.common.errors import InputError

NAME = "Dataset901_Hippocampus"


@pytest.fixture
def files(tmp_path) -> dict[str, list[Path]]:
    cases = {}
    for case in "abc":
        path = tmp_path / f"{case}.nii.gz"
        path.write_text(f"voxels of {case}")
        cases[case] = [path]
    return cases


def test_a_record_names_what_changed_and_a_copy_is_the_same(files, tmp_path):
    before = record_cases(files)
    copied = Path(shutil.copy(files["a"][0], tmp_path / "elsewhere"))
    os.utime(copied, ns=(1, 1))
    copied.replace(files["a"][0])
    assert describe_change(before, record_cases(files, before)) == "" and digest(record_cases(files)) == digest(before)
    files["b"][0].write_text("voxels of B")
    files["d"] = files.pop("c")
    now = record_cases(files, before)
    assert describe_change(before, now) == "added: d; changed: b; removed: c" and digest(now) != digest(before)
    many = {f"case{number}": files["a"] for number in range(9)}
    assert describe_change({}, record_cases(many)) == "added: case0, case1, case2 and 6 more"


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path):
    files = [tmp_path / "images" / "a.nii.gz", tmp_path / "labels" / "a.nii.gz"]
    for path in files:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    before = record_cases({"a": files})
    files[0].write_text("other voxels")
    assert describe_change(before, record_cases({"a": files}, before)) == "changed: a"


def test_files_that_were_not_touched_are_not_read_again(files, monkeypatch):
    before = record_cases(files)
    monkeypatch.setattr("nnunet_anatomix.finetuning.case_record.file_sha256", lambda path: pytest.fail("read again"))
    assert record_cases(files, before) == before


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": 3}', "null"])
def test_a_damaged_record_is_no_record(tmp_path, files, text):
    write_record(tmp_path, record_cases(files))
    assert read_record(tmp_path) == record_cases(files)
    (tmp_path / "anatomix_cases.json").write_text(text)
    assert read_record(tmp_path) == {} == read_record(tmp_path / "nowhere")


@pytest.mark.parametrize(("before", "now"), [("abc", "abcd"), ("abcdef", "abcdefg"), ("abcde", "abcd"), ("ab", "cd")])
def test_automatic_folds_are_made_anew(tmp_path, before, now):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(automatic_splits(before)))
    assert "anew" in update_splits(tmp_path, list(now))
    assert json.loads(path.read_text()) == automatic_splits(now)
    assert json.loads((tmp_path / "splits_final.backup-1.json").read_text()) == automatic_splits(before)
    assert update_splits(tmp_path, list(now)) == ""


def test_nnunets_own_folds_count_as_automatic(tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Stock(nnUNetTrainer):
        def __init__(self) -> None:
            self.fold, self.preprocessed_dataset_folder_base = 0, str(tmp_path)
            self.preprocessed_dataset_folder = self.folder_with_segs_from_previous_stage = None
            self.dataset_class = lambda *_, **__: type("Cases", (), {"identifiers": list("gfedcba")})

        def print_to_log_file(self, *_, **__) -> None: ...

    Stock().do_split()
    assert json.loads((tmp_path / "splits_final.json").read_text()) == automatic_splits("abcdefg")


def test_folds_of_the_user_are_kept_or_refused(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    assert update_splits(folder, ["a"]) == "", "no folds yet"
    text = json.dumps([{"train": ["a", "b"], "val": ["c"]}])
    (folder / "splits_final.json").write_text(text)
    assert "1 cases are in no fold" in update_splits(folder, list("abcd"))
    with pytest.raises(InputError, match=r"that do not exist: b; remove .* nnunet-anatomix split -d 901 --shots N"):
        update_splits(folder, list("acd"))
    assert (folder / "splits_final.json").read_text() == text
    (folder / "splits_final.json").write_text("[[]]")
    with pytest.raises(InputError, match="nnU-Net's format"):
        update_splits(folder, ["a"])


@pytest.fixture
def grown(nnunet, planned_hippocampus, data_root, weights_file, monkeypatch) -> Path:
    """Return the raw folder of the planned dataset, to be changed."""
    shutil.copytree(planned_hippocampus / NAME, nnunet.preprocessed / NAME)
    for part in ("imagesTr", "labelsTr"):
        shutil.copytree(data_root / "nnUNet_raw" / NAME / part, nnunet.raw / NAME / part)
    shutil.copy(data_root / "nnUNet_raw" / NAME / "dataset.json", nnunet.raw / NAME)
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    return nnunet.raw / NAME


def copy_case(raw: Path, name: str) -> None:
    """Add a copy of the first case."""
    image, label = (min((raw / part).iterdir()) for part in ("imagesTr", "labelsTr"))
    shutil.copy(image, raw / "imagesTr" / f"{name}_0000.nii.gz")
    shutil.copy(label, raw / "labelsTr" / f"{name}.nii.gz")


def remove_case(raw: Path, name: str) -> None:
    (raw / "imagesTr" / f"{name}_0000.nii.gz").unlink()
    (raw / "labelsTr" / f"{name}.nii.gz").unlink()


def start(plans: str = "nnUNetAnatomixPlans") -> AnatomixTrainer:
    base = Path(nnUNet_preprocessed) / NAME
    plan, description = (json.loads((base / f"{name}.json").read_text()) for name in (plans, "dataset"))
    plan["continue_training"] = False
    return AnatomixTrainer(plan, "3d_fullres", 0, description, torch.device("cpu"))


def enlarged_plan() -> str:
    """Write the plan as ``enlarge`` names it; return its name."""
    base, name = Path(nnUNet_preprocessed) / NAME, "nnUNetAnatomixPlansEnlarged"
    plan = json.loads((base / "nnUNetAnatomixPlans.json").read_text())
    (base / f"{name}.json").write_text(json.dumps(plan | {"plans_name": name}))
    return name


def test_training_refuses_scans_that_were_not_preprocessed(grown):
    start(), start("nnUNetPlans")
    copy_case(grown, "zz")
    line = r"made for \(added: zz\); run: nnunet-anatomix plan-and-preprocess -d 901$"
    with pytest.raises(StoppedByInput, match=line):
        start()
    with pytest.raises(StoppedByInput, match=r"run: nnUNetv2_plan_and_preprocess -d 901"):
        start("nnUNetPlans")
    then = r", then: nnunet-anatomix enlarge -d 901 -p nnUNetAnatomixPlans$"
    with pytest.raises(StoppedByInput, match=line.removesuffix("$") + then):
        start(enlarged_plan())
    remove_case(grown, "zz")
    start()
    label, other = sorted((grown / "labelsTr").iterdir())[:2]
    before = label.read_bytes()
    shutil.copy(other, label)
    with pytest.raises(StoppedByInput, match=rf"\(changed: {label.name.removesuffix('.nii.gz')}\)"):
        start()
    label.write_bytes(before)
    start()
    shutil.rmtree(grown)
    start()  # training needs only preprocessed scans


def test_planning_sees_added_scans(grown, nnunet, caplog):
    folder = nnunet.preprocessed / NAME
    (folder / "splits_final.json").write_text(json.dumps(automatic_splits(list(read_record(folder)))))
    plan = json.loads((folder / "nnUNetAnatomixPlans.json").read_text())
    copy_case(grown, "zz")
    with caplog.at_level("INFO"):
        write_plan("901")
    assert "has changed since it was planned (added: zz)" in caplog.text
    assert len(json.loads((folder / "dataset_fingerprint.json").read_text())["spacings"]) == 4
    again = json.loads((folder / "nnUNetAnatomixPlans.json").read_text())
    assert again["anatomix"]["cases"] not in (None, plan["anatomix"]["cases"])
    assert len(json.loads((folder / "splits_final.json").read_text())) == 4
    with pytest.raises(StoppedByInput, match="added: zz"):  # planned, but not yet preprocessed
        start()
