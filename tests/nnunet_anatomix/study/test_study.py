"""Study with faked nnU-Net commands: resumption, concurrency, folders and test scans."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from nnunet_anatomix.scores.statistics import read_case_dice
from nnunet_anatomix.study import runs
from nnunet_anatomix.study.report import read_rows
from nnunet_anatomix.study.runs import StudySettings
from nnunet_anatomix.study.study import study
from pretraining.common.errors import CommandFailed, InputError

SETTINGS = StudySettings(dataset="Dataset901_Hippocampus", iterations=7, max_patch=32, batch=2)


class Commands:
    """Fake of nnU-Net's commands: records calls, writes output files, and fails on request."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], dict[str, str]]] = []
        self.fails_at: int | None = None
        self.trained_on: list[dict[str, list[str]]] = []

    def folds_file(self, environment) -> Path:
        """Return the file from which nnU-Net's trainers read their folds."""
        return Path(environment["nnUNet_preprocessed"]) / SETTINGS.dataset / "splits_final.json"

    def __call__(self, command, environment, log_file) -> None:
        self.asked.append((list(command), dict(environment)))
        if command[0] == "nnUNetv2_train" and (self.folds_file(environment)).is_file():
            self.trained_on.append(json.loads(self.folds_file(environment).read_text())[0])
        if len(self.asked) == self.fails_at:
            raise CommandFailed(f"'{command[0]}' ended with exit code 1")
        preprocessed = Path(environment["nnUNet_preprocessed"]) / SETTINGS.dataset
        if "plan" in command[0] or "plan-and-preprocess" in command:
            name = "nnUNetAnatomixPlans" if command[0] == "nnunet-anatomix" else "nnUNetPlans"
            if "-overwrite_plans_name" in command:
                name = command[command.index("-overwrite_plans_name") + 1]
            configuration = {
                "patch_size": [64] * 3,
                "batch_size": 4,
                "architecture": {"arch_kwargs": {"strides": [[2, 2, 2]] * 3}},
            }
            (preprocessed / f"{name}.json").write_text(
                json.dumps({"plans_name": name, "configurations": {"3d_fullres": configuration}})
            )
        elif command[0] == "nnUNetv2_train":
            trainer, plans = command[command.index("-tr") + 1], command[command.index("-p") + 1]
            folder = (
                Path(environment["nnUNet_results"])
                / SETTINGS.dataset
                / f"{trainer}__{plans}__3d_fullres"
                / f"fold_{command[3]}"
            )
            (folder / "validation").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint_final.pth").touch()
            self.summary(folder / "validation", 0.9)
        elif command[0] == "nnUNetv2_evaluate_folder":
            folder = Path(command[2])
            folder.mkdir(exist_ok=True)
            self.summary(folder, 0.5)

    def summary(self, folder: Path, dice: float) -> None:
        metrics = {"1": {"Dice": dice}, "2": {"Dice": dice}}
        cases = [{"prediction_file": f"{folder}/case_{number}.nii.gz", "metrics": metrics} for number in range(3)]
        (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))

    def named(self, program: str) -> list[tuple[list[str], dict[str, str]]]:
        return [(command, environment) for command, environment in self.asked if command[0] == program]


@pytest.fixture
def commands(monkeypatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(runs, "run_child", commands)
    return commands


@pytest.fixture
def hippocampus(nnunet, data_root) -> Path:
    folder = nnunet.raw / SETTINGS.dataset
    folder.symlink_to(data_root / "nnUNet_raw" / SETTINGS.dataset)
    return folder


@pytest.fixture
def untested(nnunet, data_root) -> Path:
    """Return the dataset without labels of its test scans."""
    folder, source = nnunet.raw / SETTINGS.dataset, data_root / "nnUNet_raw" / SETTINGS.dataset
    folder.mkdir()
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        (folder / name).symlink_to(source / name)
    return folder


def test_every_start_and_seed_is_trained_and_tested_once(hippocampus, commands, tmp_path):
    out = tmp_path / "study"
    table = study(SETTINGS, out, seeds=(1, 0), starts=("weights", "stock"))
    trained = commands.named("nnUNetv2_train")
    assert [(command[command.index("-tr") + 1], environment["ANATOMIX_SEED"]) for command, environment in trained] == [
        (trainer, seed) for seed in "01" for trainer in ("AnatomixTrainer", "AnatomixTrainerStock")
    ]
    assert all(
        command[3] == "all" and command[-1] == "--c" and env["ANATOMIX_ITERATIONS"] == "7" for command, env in trained
    )
    assert len(commands.named("nnUNetv2_predict")) == len(commands.named("nnUNetv2_evaluate_folder")) == 4
    assert {row.dice for row in read_rows(out / "cases.csv")} == {0.5} and "0.500" in table
    assert {row.label for row in read_rows(out / "cases.csv")} == {"anterior", "posterior"}
    plans = [
        json.loads(path.read_text())
        for path in (out / "nnUNet_preprocessed" / SETTINGS.dataset).glob("nnUNet*Plans.json")
    ]
    assert [plan["configurations"]["3d_fullres"]["patch_size"] for plan in plans] == [[32] * 3] * 2
    assert not list(out.rglob("*.pth")), "checkpoints of finished runs are gone"


def test_checkpoints_are_kept_on_request_and_otherwise_named(hippocampus, commands, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        study(SETTINGS, tmp_path / "study", seeds=(0,), starts=("weights",))
    assert "fold_all/checkpoint_final.pth" in caplog.text and "--keep keeps checkpoints" in caplog.text
    study(SETTINGS, tmp_path / "kept", seeds=(0,), starts=("weights",), keep=True)
    assert [path.name for path in (tmp_path / "kept").rglob("*.pth")] == ["checkpoint_final.pth"]
    assert not list((tmp_path / "study").rglob("*.pth"))


def test_a_given_grid_and_patch_apply_to_our_plan_only(hippocampus, commands, tmp_path):
    settings = StudySettings(dataset=SETTINGS.dataset, iterations=7, patch=(48, 32, 32), spacing_mm=(2.0, 1.5, 1.5))
    for _ in range(2):  # the second call accepts the folder
        study(settings, tmp_path / "study", seeds=(0,), starts=("weights", "stock"))
    ((planned, _),) = commands.named("nnunet-anatomix")
    assert planned[-4:] == ["-overwrite_target_spacing", "2.0", "1.5", "1.5"]
    patches = {
        path.stem: json.loads(path.read_text())["configurations"]["3d_fullres"]["patch_size"]
        for path in (tmp_path / "study" / "nnUNet_preprocessed" / SETTINGS.dataset).glob("nnUNet*Plans.json")
    }
    assert patches == {"nnUNetAnatomixPlans": [48, 32, 32], "nnUNetPlans": [64, 64, 64]}


def test_another_network_is_planned_trained_and_predicted_with_its_own_plan(hippocampus, commands, tmp_path):
    path = tmp_path / "smit.json"
    path.write_text("{}")
    settings = StudySettings(dataset=SETTINGS.dataset, iterations=7, patch=(32, 32, 32), spacing_mm=(2.0, 1.5, 1.5))
    study(settings, tmp_path / "study", seeds=(0,), starts=("weights", str(path)))
    first, second = (command for command, _ in commands.named("nnunet-anatomix"))
    name = "nnUNetAnatomixPlans_smit"
    spacing = ["-overwrite_target_spacing", "2.0", "1.5", "1.5"]
    assert "--weights" not in first and first[-4:] == spacing
    assert second[-8:] == ["--weights", str(path), "-overwrite_plans_name", name, *spacing]
    trained, environment = commands.named("nnUNetv2_train")[1]
    assert trained[trained.index("-p") + 1] == name and trained[trained.index("-tr") + 1] == "AnatomixTrainer"
    assert environment["ANATOMIX_WEIGHTS"] == "", "the plan names the weights"
    predicted, _ = commands.named("nnUNetv2_predict")[1]
    assert predicted[predicted.index("-p") + 1] == name
    plan = tmp_path / "study" / "nnUNet_preprocessed" / SETTINGS.dataset / f"{name}.json"
    assert json.loads(plan.read_text())["configurations"]["3d_fullres"]["patch_size"] == [32, 32, 32]
    assert {row.start for row in read_rows(tmp_path / "study" / "cases.csv")} == {"weights", "smit"}


def test_a_failed_study_resumes_and_repeats_nothing(hippocampus, commands, tmp_path):
    out = tmp_path / "study"
    commands.fails_at = 5  # planning, then the first run, then the second's training
    with pytest.raises(CommandFailed):
        study(SETTINGS, out, seeds=(0, 1), starts=("weights",))
    assert len(commands.named("nnUNetv2_train")) == 2
    study(SETTINGS, out, seeds=(0, 1), starts=("weights",))
    assert len(commands.named("nnUNetv2_train")) == 3 and len(commands.named("nnunet-anatomix")) == 1
    before = len(commands.asked)
    study(SETTINGS, out, seeds=(0, 1), starts=("weights",))
    assert len(commands.asked) == before


def test_concurrent_studies_in_one_folder_share_runs_but_not_folds(untested, commands, tmp_path, caplog):
    """The second study starts while the first trains, and skips the run that the first holds."""
    out, asked = tmp_path / "study", {"shots": (1,), "starts": ("weights",)}
    inner: list[str] = []

    def first(command, environment, log_file) -> None:
        if command[0] == "nnUNetv2_train" and not inner:
            before = commands.folds_file(environment).read_bytes()
            inner.append(command[0])
            with pytest.raises(
                CommandFailed,
                match=r"1 of 2 runs are in use by other processes \(weights_shots1_seed0: .* is in use by process",
            ):
                study(SETTINGS, out, seeds=(0, 1), **asked)
            assert commands.folds_file(environment).read_bytes() == before, (
                "the folds of a run must not change while it trains"
            )
        commands(command, environment, log_file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_child", first)
        study(SETTINGS, out, seeds=(0,), **asked)
    assert (
        len(commands.named("nnUNetv2_train")) == 2
        and commands.trained_on[0]["train"] != commands.trained_on[1]["train"]
    )
    assert {(row.seed, row.start) for row in read_rows(out / "cases.csv")} == {(0, "weights"), (1, "weights")}, (
        "the table has all runs"
    )
    study(SETTINGS, out, seeds=(0, 1), **asked)
    assert len(commands.named("nnUNetv2_train")) == 2
    assert not list(out.rglob(".anatomix.lock*"))


def test_a_run_that_fails_does_not_stop_the_others(hippocampus, commands, tmp_path):
    commands.fails_at = 2  # after planning, the first run's training
    with pytest.raises(CommandFailed, match=r"1 of 2 runs failed .*weights_shots3_seed0: 'nnUNetv2_train' ended"):
        study(SETTINGS, tmp_path / "study", seeds=(0, 1), starts=("weights",))
    assert {row.seed for row in read_rows(tmp_path / "study" / "cases.csv")} == {1}
    assert "weights_shots3_seed0" in (tmp_path / "study" / "failed.csv").read_text()
    study(SETTINGS, tmp_path / "study", seeds=(0, 1), starts=("weights",))
    assert not (tmp_path / "study" / "failed.csv").exists()


def test_a_later_call_adds_seeds_and_starts(hippocampus, commands, tmp_path):
    study(SETTINGS, tmp_path / "study", seeds=(0,), starts=("weights",))
    study(SETTINGS, tmp_path / "study", seeds=(0, 1), starts=("weights", "scratch"))
    assert len(commands.named("nnUNetv2_train")) == 4
    assert len(read_rows(tmp_path / "study" / "cases.csv")) == 4 * 3 * 2


def test_without_labelled_test_scans_the_remaining_cases_are_the_test(untested, commands, tmp_path):
    out = tmp_path / "study"
    study(SETTINGS, out, shots=(1, 2), seeds=(0,), starts=("weights",))
    assert {row.dice for row in read_rows(out / "cases.csv")} == {0.9} and not commands.named("nnUNetv2_predict")
    assert [(len(fold["train"]), len(fold["val"])) for fold in commands.trained_on] == [(1, 2), (2, 1)]
    with pytest.raises(InputError, match="shots must be below 3"):
        study(SETTINGS, tmp_path / "other", seeds=(0,))


def test_cases_that_the_dataset_keeps_for_validation_are_never_trained_on(untested, commands, tmp_path):
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (untested / "labelsTr").iterdir())
    folds = [{"train": cases[:1], "val": cases[2:]}, {"train": cases[:2], "val": cases[2:]}]
    (untested / "splits_final.json").write_text(json.dumps(folds))
    for kind in ("imagesTs", "labelsTs"):
        (untested / kind).mkdir()
    study(SETTINGS, tmp_path / "study", seeds=(0,), starts=("weights",))
    (fold,) = commands.trained_on
    assert fold["train"] == cases[:2] and commands.named("nnUNetv2_train")[0][0][3] == "0", (
        "fold all would train on the validation cases"
    )
    (untested / "splits_final.json").write_text(json.dumps([{"train": ["somebody"], "val": []}]))
    with pytest.raises(InputError, match=r"imagesTr does not have: \['somebody'\]"):
        study(SETTINGS, tmp_path / "other")


@pytest.mark.parametrize("shots", [(0,), (4,)])
def test_more_shots_than_cases_are_refused(hippocampus, commands, tmp_path, shots):
    with pytest.raises(InputError, match="from 1 to 3 shots"):
        study(SETTINGS, tmp_path / "study", shots=shots)
    assert not (tmp_path / "study").exists()


def test_a_folder_with_other_content_is_not_changed(hippocampus, commands, tmp_path):
    out = tmp_path / "study"
    study(SETTINGS, out, seeds=(0,), starts=("weights",))
    cases = (out / "cases.csv").read_bytes()
    with pytest.raises(InputError, match=r"iterations.*7, now 9"):
        study(StudySettings(dataset=SETTINGS.dataset, iterations=9, max_patch=32, batch=2), out)
    assert (out / "cases.csv").read_bytes() == cases
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").touch()
    with pytest.raises(InputError, match="something other than a study"):
        study(SETTINGS, tmp_path / "papers")


def test_a_study_refuses_scans_that_came_later(untested, data_root, commands, tmp_path):
    out, source = tmp_path / "study", data_root / "nnUNet_raw" / SETTINGS.dataset
    for name in ("imagesTr", "labelsTr"):
        (untested / name).unlink()
        shutil.copytree(source / name, untested / name)
    asked = {"shots": (2,), "seeds": (0,), "starts": ("weights",)}
    study(SETTINGS, out, **asked)
    image, label = (min((untested / part).iterdir()) for part in ("imagesTr", "labelsTr"))
    new = [untested / "imagesTr" / "zz_0000.nii.gz", untested / "labelsTr" / "zz.nii.gz"]
    for path, copied in zip((image, label), new, strict=True):
        shutil.copy(path, copied)
    trained = len(commands.named("nnUNetv2_train"))
    with pytest.raises(InputError, match=r"begun with other scans of .* \(added: zz\); use another folder"):
        study(SETTINGS, out, **asked)
    for path in new:
        path.unlink()
    study(SETTINGS, out, **asked)
    shutil.copy(max((untested / "labelsTr").iterdir()), label)
    with pytest.raises(InputError, match=r"changed: "):
        study(SETTINGS, out, **asked)
    assert len(commands.named("nnUNetv2_train")) == trained


def test_an_older_study_without_a_record_is_compared_by_names(hippocampus, commands, tmp_path):
    out = tmp_path / "study"
    study(SETTINGS, out, seeds=(0,), starts=("weights",))
    (out / "anatomix_cases.json").unlink()
    labels = out / "nnUNet_preprocessed" / SETTINGS.dataset / "gt_segmentations"
    shutil.copytree(hippocampus / "labelsTr", labels)
    study(SETTINGS, out, seeds=(0,), starts=("weights",))
    (out / "anatomix_cases.json").unlink()
    min(labels.iterdir()).unlink()
    with pytest.raises(InputError, match=r"begun with other scans of .* \(different: hippocampus"):
        study(SETTINGS, out, seeds=(0,), starts=("weights",))


def test_the_fake_commands_write_a_readable_summary(tmp_path):
    Commands().summary(tmp_path, 0.25)
    dice = read_case_dice(
        tmp_path / "summary.json", {"labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    )
    assert [one.case for one in dice] == ["case_0", "case_0", "case_1", "case_1", "case_2", "case_2"]
