"""Runs of a study: initial weights, patch sizes and folds."""

from __future__ import annotations

import json

import pytest
import torch

from nnunet_anatomix.study.runs import BUILT_IN_STARTS, StudySettings, link_preprocessed, parse_starts, resize_patch
from pretraining.common.errors import InputError


def plan(patch: list[int], poolings: int) -> dict:
    strides = [[1, 1, 1], *[[2, 2, 2]] * poolings]
    configuration = {"patch_size": patch, "batch_size": 4, "architecture": {"arch_kwargs": {"strides": strides}}}
    return {"plans_name": "plans", "configurations": {"3d_fullres": configuration}}


@pytest.mark.parametrize(("patch", "poolings", "limit", "expected"), [
    ([96, 128, 112], 4, 64, [64, 64, 64]),
    ([48, 128, 112], 4, 100, [48, 96, 96]),
    ([40, 56, 40], 3, 64, [40, 56, 40]),
])  # fmt: skip
def test_limited_patches_fit_the_poolings(patch, poolings, limit, expected):
    whole = plan(patch, poolings)
    cut = resize_patch(whole, limit, 2)["configurations"]["3d_fullres"]
    assert cut["patch_size"] == expected and cut["batch_size"] == 2
    assert whole["configurations"]["3d_fullres"]["batch_size"] == 4, "the given plan is unchanged"


def test_a_given_patch_replaces_the_planned_one():
    assert resize_patch(plan([96, 128, 112], 4), None, 3, (80, 96, 96))["configurations"]["3d_fullres"][
        "patch_size"
    ] == [
        80,
        96,
        96,
    ]
    with pytest.raises(
        InputError, match=r"expected a patch of multiples of \[16, 16, 16\] voxels.*found \(80, 90, 96\)"
    ):
        resize_patch(plan([96] * 3, 4), None, None, (80, 90, 96))


def test_without_options_the_plan_is_unchanged():
    assert resize_patch(plan([96] * 3, 4), None, None) == plan([96] * 3, 4)


def test_patches_below_the_poolings_are_refused():
    with pytest.raises(InputError, match="at least 32"):
        resize_patch(plan([96] * 3, 5), 16, None)


def test_starts_by_name_file_and_address(tmp_path):
    (tmp_path / "our own.safetensors").touch()
    starts = parse_starts(["weights", "stock", "weights", str(tmp_path / "our own.safetensors"), "hf://a/b/dev.pth@1"])
    assert list(starts) == ["weights", "stock", "our_own", "dev"]
    assert (
        starts["our_own"].weights == str(tmp_path / "our own.safetensors")
        and starts["our_own"].trainer == "AnatomixTrainer"
    )
    assert starts["stock"].trainer == "AnatomixTrainerStock" and not starts["weights"].weights


def test_starts_of_other_networks_have_plans_of_their_own(tmp_path):
    (tmp_path / "prim geo.json").write_text("{}")
    torch.save({"network_weights": {}, "nnssl_adaptation_plan": {}}, tmp_path / "openmind.pth")
    torch.save({"model.0.weight": torch.zeros(1)}, tmp_path / "published.pth")
    files = [str(tmp_path / name) for name in ("prim geo.json", "openmind.pth", "published.pth")]
    starts = parse_starts(["weights", *files])
    assert [(start.plans, start.planned_for, start.weights) for start in starts.values()] == [
        ("nnUNetAnatomixPlans", "", ""),
        ("nnUNetAnatomixPlans_prim_geo", files[0], ""),
        ("nnUNetAnatomixPlans_openmind", files[1], ""),
        ("nnUNetAnatomixPlans", "", files[2]),
    ]
    assert {start.trainer for start in starts.values()} == {"AnatomixTrainer"}
    with pytest.raises(InputError, match="names code that training would run, expected a local file"):
        parse_starts(["hf://somebody/nets/net.json@main"])
    (tmp_path / "stock.json").write_text("{}")
    with pytest.raises(InputError, match="two starts would be called 'stock'"):
        parse_starts([str(tmp_path / "stock.json")])


def test_unknown_starts_and_equal_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a start among"):
        parse_starts(["wieghts"])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.pth").touch()
    with pytest.raises(InputError, match="two starts would be called 'net'"):
        parse_starts([str(tmp_path / "one" / "net.pth"), str(tmp_path / "two" / "net.pth")])
    (tmp_path / "stock.pth").touch()
    with pytest.raises(InputError, match="'stock'"):
        parse_starts([str(tmp_path / "stock.pth")])


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"max_patch": -1}, {"batch": -2}, {"patch": (0, 8, 8)}])
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        StudySettings(dataset="Dataset901_Hippocampus", **wrong)


def test_runs_have_their_own_folds_and_share_all_other_files(tmp_path):
    shared = tmp_path / "shared" / "Dataset901_Hippocampus"
    (shared / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    (shared / "nnUNetPlans_3d_fullres" / "case.b2nd").touch()
    (shared / "nnUNetPlans.json").write_text("{}")
    (shared / "splits_final.json").write_text("[]")
    folds = [{"train": [name], "val": [name]} for name in "ab"]
    folders = [
        link_preprocessed(shared, fold, tmp_path / "runs" / name) for fold, name in zip(folds, "ab", strict=True)
    ]
    for folder, fold in zip(folders, folds, strict=True):
        own = folder / shared.name
        assert json.loads((own / "splits_final.json").read_text()) == [fold]
        assert (own / "nnUNetPlans_3d_fullres" / "case.b2nd").is_file() and (
            own / "nnUNetPlans.json"
        ).read_text() == "{}"
    assert (shared / "splits_final.json").read_text() == "[]"
    (shared / "later.json").touch()
    (tmp_path / "runs").rename(tmp_path / "moved")  # broken links are replaced
    again = link_preprocessed(shared, folds[0], tmp_path / "moved" / "deeper" / "a") / shared.name
    assert (again / "later.json").is_file()
    assert not (link_preprocessed(shared, None, tmp_path / "all") / shared.name / "splits_final.json").exists()


def test_on_disks_without_links_runs_get_copies(tmp_path, monkeypatch):
    (tmp_path / "Dataset1" / "data").mkdir(parents=True)
    (tmp_path / "Dataset1" / "data" / "case.b2nd").write_text("voxels")
    (tmp_path / "Dataset1" / "plans.json").write_text("{}")

    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    own = link_preprocessed(tmp_path / "Dataset1", None, tmp_path / "run") / "Dataset1"
    assert (own / "data" / "case.b2nd").read_text() == "voxels" and (own / "plans.json").read_text() == "{}"


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "AnatomixTrainer"])
def test_trainers_read_the_folds_of_their_run(
    planned_hippocampus, nnunet, tmp_path, monkeypatch, trainer, weights_file
):
    from nnunetv2.run.run_training import get_trainer_from_args

    name = "Dataset901_Hippocampus"
    cases = sorted(path.stem for path in (planned_hippocampus / name / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    monkeypatch.setenv("ANATOMIX_WEIGHTS", str(weights_file))
    for number, case in enumerate(cases[:2]):
        fold = {"train": [case], "val": cases[2:]}
        monkeypatch.setenv(
            "nnUNet_preprocessed", str(link_preprocessed(planned_hippocampus / name, fold, tmp_path / f"run {number}"))
        )
        run = get_trainer_from_args(name, "3d_fullres", 0, trainer, device=torch.device("cpu"))
        assert [list(keys) for keys in run.do_split()] == [fold["train"], fold["val"]]
        training, _ = run.get_tr_and_val_datasets()
        assert training.load_case(case)[0].ndim == 4
    assert not (planned_hippocampus / name / "splits_final.json").exists()


def test_the_recipe_of_the_paper_is_for_all_starts_but_stock():
    trainers = {name: start.as_in_paper().trainer for name, start in BUILT_IN_STARTS.items()}
    assert trainers == {
        "weights": "AnatomixTrainerPaper",
        "paper": "AnatomixTrainerPaper",
        "scratch": "AnatomixTrainerPaperScratch",
        "stock": "AnatomixTrainerStock",
    }
