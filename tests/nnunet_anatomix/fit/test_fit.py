"""Fit with faked nnU-Net commands: rounds, resumption, growing datasets and the published model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.fit import fit as fit_module
from nnunet_anatomix.fit import predictions, trainings
from nnunet_anatomix.fit.fit import FitRequest, fit, fit_folder
from nnunet_anatomix.fit.folder import MODEL
from nnunet_anatomix.fit.next_scan import Doubt, NextRequest, most_doubtful_first, rank_scans
from nnunet_anatomix.study import runs
from pretraining.common.errors import CommandFailed, InputError
from tests.in_process import run_here
from tests.nnunet_anatomix.fit.small_commands import NAME, Commands
from tests.nnunet_anatomix.propagation.test_propagate import anatomy

ON_CPU = {"dataset": "901", "device": "cpu"}


@pytest.fixture
def commands(monkeypatch) -> Commands:
    """Return fakes whose Dice rises to .7 at 400 steps and then no more."""
    commands = Commands(lambda steps: min(0.7, 0.3 + steps / 1000))
    for module in (runs, trainings, predictions):
        monkeypatch.setattr(module, "run_child", commands)
    monkeypatch.setattr(fit_module, "live_page", _drawn_once)
    return commands


class _drawn_once:
    """Draws the page at the end alone, which takes matplotlib a moment."""

    def __init__(self, state) -> None:
        self.state = state

    def __enter__(self) -> None: ...

    def __exit__(self, *error) -> None:
        from nnunet_anatomix.fit.page import _draw

        if error[0] is None:
            _draw(self.state, is_live=False)


@pytest.fixture
def dataset(nnunet, data_root) -> Path:
    """Return a raw dataset of two cases, a folder of its own."""
    source, folder = data_root / "nnUNet_raw" / NAME, nnunet.raw / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for path in sorted((source / part).iterdir())[:2]:
            shutil.copy(path, folder / part)
    shutil.copy(source / "dataset.json", folder)
    return folder


def add_case(dataset: Path, name: str = "zz") -> None:
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        shutil.copy(min((dataset / part).iterdir()), dataset / part / f"{name}{ending}.nii.gz")


def test_from_a_raw_folder_to_a_model_and_its_commands(dataset, commands, nnunet):
    result = run_here("nnunet-anatomix", "fit", "-d", "901", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert [command[0] for command in commands.asked][:2] == ["nnunet-anatomix", "nnUNetv2_train"]
    assert commands.trainings() == ["0", "1"] * 3 + ["all"], "rounds of 100, 400 and 1,600 steps, then all scans"
    model = nnunet.results / NAME / MODEL
    assert {path.parent.name for path in model.glob("fold_*/checkpoint_*.pth")} == {"fold_0", "fold_1", "fold_all"}
    assert {path.read_text() for path in model.glob("fold_*/checkpoint_final.pth")} == {"network of 400 steps"}
    assert not list(model.glob("fold_*/checkpoint_best.pth")) and (model / "plans.json").is_file()
    assert "Dice 0.700" in result.stderr and "2 left-out scans" in result.stderr
    assert (
        "nnUNetv2_predict -i IMAGES -o PREDICTIONS -d 901 -c 3d_fullres -f all -tr AnatomixTrainer "
        "-p nnUNetAnatomixFitPlans -device cpu"
    ) in result.stderr and "-f 0 1 -tr" in result.stderr
    folder = nnunet.results / NAME / "fit"
    plan = json.loads((folder / "nnUNet_preprocessed" / NAME / "nnUNetAnatomixFitPlans.json").read_text())
    assert plan["configurations"]["3d_fullres"]["patch_size"] == [64] * 3, "smaller on a CPU"
    page = (folder / "fit.html").read_text()
    assert page.count("data:image/png") == 3, "curves, and a slice of each left-out scan"
    assert "0.700" in page and "nnUNetv2_predict" in page and "http-equiv" not in page
    assert len((folder / "fit.csv").read_text().splitlines()) == 1 + 3 * 2 * 2
    kept = {path.parts[-5] for path in folder.glob("rounds/*/*/*/fold_*/checkpoint_final.pth")}
    assert kept == {"400"}, "checkpoints of other rounds are gone"
    before = len(commands.asked)
    fit(FitRequest(**ON_CPU))
    assert len(commands.asked) == before, "a finished fit does nothing again"


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_fit_that_is_stopped_anywhere_resumes_and_repeats_nothing(dataset, commands, nnunet, fails_at):
    commands.fails_at = fails_at
    with pytest.raises(CommandFailed):
        fit(FitRequest(**ON_CPU))
    commands.fails_at = 0
    lines = fit(FitRequest(**ON_CPU))
    assert "-f 0 1 " in lines[1] and (nnunet.results / NAME / MODEL / "fold_all" / "checkpoint_final.pth").is_file()
    assert len(commands.asked) == 9, "one call more than without the stop"


def test_steps_can_be_given_and_a_longer_search_goes_on_from_there(dataset, commands, nnunet):
    fit(FitRequest(**ON_CPU, iterations=7))
    final = nnunet.results / NAME / MODEL / "fold_all" / "checkpoint_final.pth"
    assert commands.trainings() == ["0", "1", "all"] and final.read_text() == "network of 7 steps"
    fit(FitRequest(**ON_CPU, iterations=100))
    assert final.read_text() == "network of 100 steps"
    fit(FitRequest(**ON_CPU))
    assert final.read_text() == "network of 400 steps"
    fit(FitRequest(**ON_CPU, iterations=100))
    assert final.read_text() == "network of 100 steps", "whose networks had been deleted"


def test_minutes_end_the_rounds(dataset, commands):
    fit(FitRequest(**ON_CPU, minutes=1.5))  # a training logs 30 s, so the first round takes 60 s
    assert commands.trainings() == ["0", "1", "all"]
    fit(FitRequest(**ON_CPU, minutes=9))
    assert commands.trainings() == ["0", "1", "all"] + ["0", "1"] * 2 + ["all"]


def test_an_added_scan_begins_the_fit_anew_and_replaces_the_model_at_the_end(dataset, commands, nnunet, caplog):
    fit(FitRequest(**ON_CPU, iterations=5))
    model, before = nnunet.results / NAME / MODEL, len(commands.asked)
    first = (model / "anatomix_fit.json").read_text()
    add_case(dataset)
    commands.fails_at = before + 2
    with pytest.raises(CommandFailed), caplog.at_level("INFO"):
        fit(FitRequest(**ON_CPU, iterations=5))
    assert "beginning anew, as scans or settings have changed (added: zz)" in caplog.text
    assert (model / "anatomix_fit.json").read_text() == first, "the earlier model is there until the end"
    commands.fails_at = 0
    lines = fit(FitRequest(**ON_CPU, iterations=5))
    assert "-f 0 1 2 " in lines[1] and (model / "anatomix_fit.json").read_text() != first
    assert commands.asked[before][0] == "nnunet-anatomix", "planned anew"


def test_other_weights_begin_the_fit_anew_even_if_that_is_interrupted(dataset, commands, monkeypatch, nnunet):
    fit(FitRequest(**ON_CPU, iterations=5))
    monkeypatch.setenv("ANATOMIX_WEIGHTS", "other.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(fit_module.shutil, "rmtree", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(FitRequest(**ON_CPU, iterations=5))
    fit(FitRequest(**ON_CPU, iterations=5))
    assert commands.trainings() == ["0", "1", "all"] * 2
    assert [command[0] for command in commands.asked].count("nnunet-anatomix") == 2


def _interrupted(*_, **__) -> None:
    raise KeyboardInterrupt


def test_other_labels_in_dataset_json_begin_the_fit_anew(dataset, commands, caplog):
    fit(FitRequest(**ON_CPU, iterations=5))
    description = json.loads((dataset / "dataset.json").read_text())
    description |= {"labels": {"background": 0, "whole": [1, 2], "rear": 2}, "regions_class_order": [1, 2]}
    (dataset / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(CommandFailed), caplog.at_level("INFO"):
        fit(FitRequest(**ON_CPU, iterations=5))  # the fake has no scores of regions
    assert "(changed: dataset.json)" in caplog.text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--minutes", 0), "minutes"),
        (("--iterations", 0), "iterations"),
        (("--max-patch", 4), "maximum patch side of at least 8"),
        (("-d", 902), "no single dataset"),
    ],
)
def test_bad_input_is_one_line(dataset, commands, words, line):
    result = run_here("nnunet-anatomix", "fit", "-d", "901", "--device", "cpu", *words)
    assert result.returncode == 1 and line in result.stderr.splitlines()[-1]


def test_one_labelled_scan_is_too_few(dataset, commands):
    for part in ("imagesTr", "labelsTr"):
        max((dataset / part).iterdir()).unlink()
    with pytest.raises(InputError, match=r"needs two labelled ones, found 1 .* nnunet-anatomix propagate -d 901"):
        fit(FitRequest(**ON_CPU))
    assert not fit_folder(NAME).path.exists()


@pytest.fixture
def unlabelled(tmp_path, data_root) -> Path:
    """Return a folder of scans, of which the networks disagree on one."""
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    scans = sorted((data_root / "nnUNet_raw" / NAME / "imagesTs").iterdir())
    for scan, name in zip(scans, ("clear", "unsure", "plain"), strict=False):
        shutil.copy(scan, folder / f"{name}_0000.nii.gz")
    return folder


def test_the_scan_on_which_networks_disagree_is_labelled_next(dataset, commands, unlabelled, nnunet):
    fit(FitRequest(**ON_CPU, iterations=5))
    shutil.copy(min((dataset / "imagesTr").iterdir()), unlabelled)  # labelled already
    words = ("next", "-d", "901", "-i", unlabelled, "--no-atlases", "--device", "cpu")
    result = run_here("nnunet-anatomix", *words)
    assert result.returncode == 0 and "label next: unsure" in result.stderr, result.stderr
    out = nnunet.results / NAME / "next"
    rows = (out / "next.csv").read_text().splitlines()
    assert rows[1].startswith("unsure,0.") and len(rows) == 4 and rows[2].split(",")[1:] == ["1.000", "", ""]
    assert (out / "next.html").read_text().count("data:image/png") == 3
    predicted = [command for command in commands.asked if command[0] == "nnUNetv2_predict"]
    assert [command[command.index("-f") + 1] for command in predicted] == ["0", "1"]
    run_here("nnunet-anatomix", *words)
    assert len([command for command in commands.asked if command[0] == "nnUNetv2_predict"]) == 2
    (unlabelled / "plain_0000.nii.gz").unlink()
    assert run_here("nnunet-anatomix", *words).returncode == 0
    assert len([command for command in commands.asked if command[0] == "nnUNetv2_predict"]) == 4, "other scans"


def test_ranks_of_both_measures_are_averaged():
    def order(*rows: tuple) -> str:
        doubts = [Doubt(case=case, networks=networks, difference=differs) for case, networks, differs in rows]
        return "".join(one.case for one in most_doubtful_first(doubts))

    assert order(("a", 0.9, 0.1), ("b", 0.2, 0.3), ("c", 0.5, 0.2)) == "bca"
    assert order(("a", 0.9, None), ("b", 0.2, None), ("c", 0.5, None)) == "bca"
    assert order(("a", None, 0.1), ("b", None, float("nan")), ("c", None, 0.2)) == "bca", "unknown is doubtful"
    assert order(("a", 0.2, 0.1), ("b", 0.1, 0.2), ("c", 0.9, 0.9), ("d", 0.8, 0.05)) == "bacd"


@pytest.fixture
def organs(nnunet):
    """Return a dataset with one labelled and two other scans, one of which is noise."""
    folder = nnunet.raw / "Dataset044_Organs"
    scan, labels = anatomy(1)
    noise = np.random.default_rng(0).standard_normal(scan.shape).astype(np.float32)
    files = {
        "imagesTr/c1_0000": scan,
        "labelsTr/c1": labels,
        "imagesTs/alike_0000": anatomy(7)[0],
        "imagesTs/noise_0000": noise,
    }
    for name, array in files.items():
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def test_without_a_fit_the_scan_that_differs_most_from_the_labelled_ones_comes_first(organs, tmp_path):
    ranked = rank_scans(NextRequest(dataset="44", images=organs / "imagesTs", out=tmp_path / "next", device="cpu"))
    assert [one.case for one in ranked] == ["noise", "alike"] and ranked[0].networks is None
    assert (tmp_path / "next" / "next.html").read_text().count("data:image/png") == 2


def test_without_networks_and_atlases_there_is_one_line(dataset, commands, unlabelled):
    request = {"dataset": "901", "device": "cpu", "atlases": False}
    with pytest.raises(InputError, match=r"has no fit; run: nnunet-anatomix fit -d 901"):
        rank_scans(NextRequest(images=unlabelled, **request))
    fit(FitRequest(**ON_CPU, iterations=5))
    with pytest.raises(InputError, match="are labelled already"):
        rank_scans(NextRequest(images=dataset / "imagesTr", **request))
