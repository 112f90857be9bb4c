"""What a run starts from and trains on."""

from __future__ import annotations

import itertools

import pytest

from nnunet_anatomix.study.runs import StudySettings, cut_plan, drawn_fold, starts_of
from pretraining.errors import InputError

CASES = [f"case_{number}" for number in range(8)]


def plan(patch: list[int], poolings: int) -> dict:
    strides = [[1, 1, 1], *[[2, 2, 2]] * poolings]
    configuration = {"patch_size": patch, "batch_size": 4, "architecture": {"arch_kwargs": {"strides": strides}}}
    return {"plans_name": "plans", "configurations": {"3d_fullres": configuration}}


def test_more_shots_contain_fewer_and_seeds_draw_differently():
    folds = [drawn_fold(CASES, shots, 3, validate_on_others=True) for shots in range(1, 8)]
    for fewer, more in itertools.pairwise(folds):
        assert set(fewer["train"]) < set(more["train"])
    for shots, fold in enumerate(folds, start=1):
        assert len(fold["train"]) == shots and sorted(fold["train"] + fold["val"]) == CASES
    assert len({tuple(drawn_fold(CASES, 2, seed, validate_on_others=True)["train"]) for seed in range(10)}) > 3


def test_with_test_scans_the_training_cases_are_the_validation_which_is_cheapest():
    fold = drawn_fold(CASES, 2, 0, validate_on_others=False)
    assert fold["val"] == fold["train"]


def test_all_cases_are_nnunets_fold_all():
    assert drawn_fold(CASES, len(CASES), 0, validate_on_others=False) is None


@pytest.mark.parametrize(("patch", "poolings", "limit", "expected"), [
    ([96, 128, 112], 4, 64, [64, 64, 64]),
    ([48, 128, 112], 4, 100, [48, 96, 96]),
    ([40, 56, 40], 3, 64, [40, 56, 40]),
])  # fmt: skip
def test_cut_patches_fit_the_poolings(patch, poolings, limit, expected):
    whole = plan(patch, poolings)
    cut = cut_plan(whole, limit, 2)["configurations"]["3d_fullres"]
    assert cut["patch_size"] == expected and cut["batch_size"] == 2
    assert whole["configurations"]["3d_fullres"]["batch_size"] == 4, "the plan given stays as it is"


def test_a_patch_of_ones_own_goes_first():
    assert cut_plan(plan([96, 128, 112], 4), None, 3, (80, 96, 96))["configurations"]["3d_fullres"]["patch_size"] == [80, 96, 96]
    with pytest.raises(InputError, match=r"expected a patch of multiples, found \(80, 90, 96\)"):
        cut_plan(plan([96] * 3, 4), None, None, (80, 90, 96))


def test_nothing_asked_cuts_nothing():
    assert cut_plan(plan([96] * 3, 4), None, None) == plan([96] * 3, 4)


def test_patches_below_the_poolings_are_refused():
    with pytest.raises(InputError, match="at least 32"):
        cut_plan(plan([96] * 3, 5), 16, None)


def test_starts_by_name_file_and_address(tmp_path):
    (tmp_path / "our own.safetensors").touch()
    starts = starts_of(["weights", "stock", "weights", str(tmp_path / "our own.safetensors"), "hf://a/b/dev.pth@1"])
    assert list(starts) == ["weights", "stock", "our_own", "dev"]
    assert starts["our_own"].weights == str(tmp_path / "our own.safetensors") and starts["our_own"].trainer == "AnatomixTrainer"
    assert starts["stock"].trainer == "AnatomixTrainerStock" and not starts["weights"].weights


def test_starts_that_are_nothing_or_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a start among"):
        starts_of(["wieghts"])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.pth").touch()
    with pytest.raises(InputError, match="two starts would be called 'net'"):
        starts_of([str(tmp_path / "one" / "net.pth"), str(tmp_path / "two" / "net.pth")])
    (tmp_path / "stock.pth").touch()
    with pytest.raises(InputError, match="'stock'"):
        starts_of([str(tmp_path / "stock.pth")])


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"max_patch": -1}, {"batch": -2}, {"patch": (0, 8, 8)}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        StudySettings(dataset="Dataset901_Hippocampus", **wrong)
