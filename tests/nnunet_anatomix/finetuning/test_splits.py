"""Folds for few labelled cases."""

from __future__ import annotations

import itertools
import json

import pytest

from nnunet_anatomix.finetuning.splits import draw_folds, few_shot_splits, split_dataset, training_pool, write_splits
from pretraining.common.errors import InputError

CASES = [f"case_{number}" for number in (4, 0, 3, 1, 2)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_cases_get_leave_one_out_folds(count):
    cases = [f"case_{number}" for number in reversed(range(count))]
    splits = few_shot_splits(cases)
    assert len(splits) == count and [fold["val"] for fold in splits] == [[case] for case in sorted(cases)]
    for fold in splits:
        assert set(fold["train"]) | set(fold["val"]) == set(cases)
        assert count == 1 or not set(fold["train"]) & set(fold["val"])


@pytest.mark.parametrize("count", [0, 5, 6])
def test_other_counts_are_not_for_leave_one_out(count):
    with pytest.raises(InputError, match=f"found {count}"):
        few_shot_splits([str(number) for number in range(count)])


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_shots_train_and_the_others_validate(shots):
    for fold in draw_folds(CASES, shots, seed=1, repeats=5):
        assert len(fold["train"]) == shots and sorted(fold["train"] + fold["val"]) == sorted(CASES)


def test_repeats_differ_as_long_as_they_can_and_share_nothing_with_another_seed():
    folds = draw_folds(CASES, 2, seed=0, repeats=20)
    draws = [tuple(fold["train"]) for fold in folds]
    assert len(set(draws[:10])) == 10 and len(set(draws[10:])) == 10
    assert draw_folds(CASES[::-1], 2, seed=0, repeats=20) == folds != draw_folds(CASES, 2, seed=1, repeats=20)


def test_more_shots_contain_fewer():
    folds = [draw_folds(CASES, shots, seed=3)[0]["train"] for shots in range(1, 6)]
    for fewer, more in itertools.pairwise(folds):
        assert set(fewer) < set(more)


def test_the_cases_of_earlier_studies_are_drawn_again():
    cases = [f"case_{number}" for number in range(8)]
    drawn = [draw_folds(cases, 3, seed=seed)[0]["train"] for seed in (0, 1, 2)]
    assert drawn == [["case_2", "case_3", "case_4"], ["case_0", "case_1", "case_5"], ["case_5", "case_6", "case_7"]]


def test_split_and_study_train_on_the_same_cases(nnunet, data_root):
    """Both exclude the cases that a dataset reserves for validation."""
    folder, source = nnunet.raw / "Dataset901_Hippocampus", data_root / "nnUNet_raw" / "Dataset901_Hippocampus"
    folder.mkdir()
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        (folder / name).symlink_to(source / name)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[:2], "val": cases[2:]}]))
    (nnunet.preprocessed / folder.name).mkdir()
    for seed in range(4):
        (fold,) = json.loads(split_dataset("901", 1, seed=seed).read_text())
        assert fold["train"] == draw_folds(training_pool(folder, cases), 1, seed=seed)[0]["train"]
        assert set(fold["train"]) < set(cases[:2]) and set(fold["val"]) == set(cases) - set(fold["train"])


def test_validation_cases_can_be_given():
    (fold,) = draw_folds(CASES, 2, seed=0, validation=())
    assert fold["val"] == fold["train"]
    (other,) = draw_folds(CASES, 2, seed=0, validation=[*CASES, "case_9"])
    assert other["train"] == fold["train"] and set(other["val"]) == {*CASES, "case_9"} - set(fold["train"])


def test_fewer_repeats_are_the_first_of_more():
    assert draw_folds(CASES, 3, seed=2, repeats=2) == draw_folds(CASES, 3, seed=2, repeats=6)[:2]


def test_folds_of_all_cases_validate_on_them():
    assert draw_folds(CASES, 5, seed=0) == [{"train": sorted(CASES), "val": sorted(CASES)}]


@pytest.mark.parametrize(
    "shots, more, message",
    [(0, {}, "found 0"), (6, {}, "from 1 to 5 shots"), (2, {"repeats": 0}, "1 repeat"), (2, {"seed": -1}, "seed")],
)
def test_invalid_values_are_refused(shots, more, message):
    with pytest.raises(InputError, match=message):
        draw_folds(CASES, shots, **{"seed": 0, **more})


def test_existing_folds_are_backed_up(tmp_path):
    one, two, three = (draw_folds(CASES, shots, seed=0) for shots in (1, 2, 3))
    assert write_splits(tmp_path, one) is None and write_splits(tmp_path, one) is None
    backups = [write_splits(tmp_path, two), write_splits(tmp_path, three)]
    assert [json.loads(path.read_text()) for path in (*backups, tmp_path / "splits_final.json")] == [one, two, three]


def test_a_dataset_must_be_planned_first(nnunet, data_root):
    nnunet.raw.rmdir()
    nnunet.raw.symlink_to(data_root / "nnUNet_raw")
    with pytest.raises(InputError, match="plan the dataset first"):
        split_dataset("901", 2)
    (nnunet.preprocessed / "Dataset901_Hippocampus").mkdir()
    folds = json.loads(split_dataset("901", 2, repeats=3).read_text())
    assert len(folds) == 3 and all(len(fold["train"]) == 2 and len(fold["val"]) == 1 for fold in folds)
