"""One command from scans to results, with a stand-in for nnU-Net."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from nnunet_anatomix.clinical.running import prediction
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.dicom_series import ramp, write_series
from tests.nnunet_anatomix.clinical.miniature_model import write_model
from tests.nnunet_anatomix.clinical.running.stand_in import StandIn, fail_at, segment
from tests.process_server import run_python

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def nnunet_command(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(prediction, "run_child", stand_in)
    return stand_in


@pytest.fixture
def src(tmp_path) -> Path:
    """Three studies of one CT each."""
    for number in range(1, 4):
        write_series(tmp_path / "src" / f"study{number}", ramp(seed=number), patient_id=str(number))
    return tmp_path / "src"


def segmentation_of(src: Path, dst: Path, *options: object) -> CompletedProcess:
    """Run the command without pictures, which take longest."""
    return run_here("nnunet-anatomix", "run", src, dst, "--no-overview", "--workers", "1", *options)


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "Dataset777_Mini")


def delivered(dst: Path) -> dict[str, str]:
    """Case → status in ``deliver.csv``."""
    with (dst / "results" / "deliver.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row["status"] for row in csv.DictReader(file)}


def labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def assert_results(dst: Path, *cases: str) -> None:
    """Assert that these cases, and no others, are predicted and delivered from today's images."""
    assert delivered(dst) == dict.fromkeys(cases, "delivered")
    for folder, suffix in (("predictions", ".nii.gz"), ("results/nifti", ".nii.gz"), ("results/segmentations", ".dcm")):
        assert {path.name for path in (dst / folder).iterdir()} == {f"{case}{suffix}" for case in cases}
    for case in cases:
        expected = segment(labels(dst / "intake" / "images" / f"{case}_0000.nii.gz"))
        assert len(np.unique(expected)) == 3
        assert np.array_equal(labels(dst / "results" / "nifti" / f"{case}.nii.gz"), expected)
    assert not (dst / "predicting").exists()


def test_all_studies_are_delivered_and_a_second_run_has_nothing_to_do(src, model, nnunet_command, tmp_path):
    dst = tmp_path / "dst"
    first = segmentation_of(src, dst, "-m", model, "--folds", "all", "--no-mirroring")
    assert first.returncode == 0, first.stderr
    assert_results(dst, "case_001", "case_002", "case_003")
    assert nnunet_command.calls == [["case_001", "case_002", "case_003"]]
    assert "--disable_tta" in nnunet_command.commands[0]
    before = {path: path.stat().st_mtime_ns for path in dst.rglob("*.dcm")}
    again = segmentation_of(src, dst, "-m", model, "--no-mirroring")
    assert again.returncode == 0 and len(nnunet_command.calls) == 1
    assert {path: path.stat().st_mtime_ns for path in dst.rglob("*.dcm")} == before
    record = json.loads((dst / "predicted" / "case_001.json").read_text())
    assert record["started"] <= record["finished"] and len(record["model"]["fold_all/checkpoint_final.pth"]) == 64


def test_other_settings_and_changed_scans_are_predicted_again(src, model, nnunet_command, tmp_path):
    dst = tmp_path / "dst"
    segmentation_of(src, dst, "-m", model)
    write_series(src / "study2", ramp(seed=9), patient_id="2", series_uid="1.2.3", study_uid="1.2")
    shutil.rmtree(src / "study3")
    done = segmentation_of(src, dst, "-m", model)
    assert done.returncode == 0, done.stderr
    # Study 2 has other UIDs and so is a case of its own; study 3, whose scan is gone, is kept.
    assert nnunet_command.calls[1:] == [["case_004"]]
    assert_results(dst, "case_001", "case_002", "case_003", "case_004")
    os.utime(next((src / "study1").iterdir()), (1, 1))
    segmentation_of(src, dst, "-m", model)
    assert nnunet_command.calls[2:] == [["case_001"]]
    segmentation_of(src, dst, "-m", model, "--no-mirroring")
    assert nnunet_command.calls[3:] == [["case_001", "case_002", "case_003", "case_004"]]


def test_results_of_a_case_that_is_no_longer_taken_are_removed(src, model, nnunet_command, tmp_path):
    dst = tmp_path / "dst"
    segmentation_of(src, dst, "-m", model)
    files = {dcmread(path).InstanceNumber: path for path in (src / "study2").iterdir()}
    files[4].unlink()  # now a slice is missing
    done = segmentation_of(src, dst, "-m", model)
    assert done.returncode == 0 and "case_002" in done.stderr
    assert_results(dst, "case_001", "case_003")


def test_a_case_that_fails_does_not_stop_the_others(src, model, nnunet_command, tmp_path):
    dst = tmp_path / "dst"
    nnunet_command.before_case = fail_at("case_002")
    failed = segmentation_of(src, dst, "-m", model)
    assert failed.returncode == 1 and "1 of 2 predictions failed" in failed.stderr.splitlines()[-1]
    assert nnunet_command.calls == [["case_001", "case_002", "case_003"], ["case_002"], ["case_003"]]
    assert_results(dst, "case_001", "case_003")
    nnunet_command.before_case = fail_at()
    assert segmentation_of(src, dst, "-m", model).returncode == 0
    assert nnunet_command.calls[3:] == [["case_002"]]
    assert_results(dst, "case_001", "case_002", "case_003")


def test_a_killed_prediction_continues_with_the_case_that_was_unfinished(src, model, nnunet_command, tmp_path):
    dst = tmp_path / "dst"
    program = f"""
import os, signal, sys
from nnunet_anatomix.clinical.running import prediction
from tests.nnunet_anatomix.clinical.running.stand_in import StandIn
from tests.in_process import run_here
def kill(case, written):
    if case == "case_002":
        written.write_bytes(b"\\x1f\\x8b half a file")
        os.kill(os.getpid(), signal.SIGKILL)
prediction.run_child = StandIn(kill)
run_here("nnunet-anatomix", "run", {str(src)!r}, {str(dst)!r}, "--no-overview", "-m", {str(model)!r})
"""
    killed = run_python([sys.executable, "-c", program], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    assert not (dst / "results").exists() and (dst / "predicting" / "labels" / "case_002.nii.gz").is_file()
    done = segmentation_of(src, dst, "-m", model)
    assert done.returncode == 0, done.stderr
    assert nnunet_command.calls == [["case_002", "case_003"]]
    assert_results(dst, "case_001", "case_002", "case_003")


def test_several_models_take_their_own_scans(src, model, nnunet_command, tmp_path):
    brain = write_model(tmp_path / "Dataset778_Brain", channel="MRI")
    write_series(src / "head", modality="MR", description="t1", patient_id="4")
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        f"""
- {{name: body, model: Dataset777_Mini, modality: CT, originals_only: true}}
- {{name: brain, model: '{brain}', modality: MR}}
- {{name: none, model: Dataset777_Mini, description: nothing}}
"""
    )
    done = segmentation_of(src, tmp_path / "dst", "--routes", routes)
    assert done.returncode == 0, done.stderr
    assert_results(tmp_path / "dst" / "body", "case_001", "case_002", "case_003")
    assert_results(tmp_path / "dst" / "brain", "case_001")
    assert not (tmp_path / "dst" / "none" / "results").exists()


def test_a_folder_without_a_suitable_scan_ends_in_one_line(model, nnunet_command, tmp_path):
    write_series(tmp_path / "src", modality="MR", description="t1")
    done = segmentation_of(tmp_path / "src", tmp_path / "dst", "-m", model)
    assert done.returncode == 1 and "no route takes any of 1 scan found" in done.stderr.splitlines()[-1]
    assert (tmp_path / "dst" / "intake" / "intake.csv").is_file() and not nnunet_command.calls


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give a model to -m"),
        (("-m", "{model}", "--routes", "routes.yaml"), 2, "give a model to -m"),
        (("--routes", "routes.yaml", "--folds", "0"), 2, "belong to one model"),
        (("--routes", "routes.yaml", "--originals-only"), 2, "belong to one model"),
        (("-m", "{model}", "--fetch", "http://localhost"), 2, "belong together"),
        (("-m", "{model}", "--query", "StudyDate=20260101-"), 2, "belong together"),
        (("-m", "{model}", "--fetch", "localhost", "--query", "PatientID=1"), 1, "expected a URL"),
        (("-m", "{model}", "--fetch", "http://a:b@localhost", "--query", "PatientID=1"), 1, "netrc"),
        (("-m", "{model}", "--fetch", "http://localhost", "--query", "PatientID"), 1, "ATTRIBUTE=VALUE"),
        (("-m", "{model}", "--receive", "A@localhost:104"), 2, "needs --watch"),
        (("-m", "{model}", "--receive", "localhost:104", "--watch"), 1, "AET@HOST:PORT"),
        (("-m", "{model}", "--send", "ARCHIVE"), 1, "AET@HOST:PORT"),
        (("-m", "{model}", "--send", "A@b:104", "--format", "nifti"), 1, "needs DICOM results"),
        (("-m", "{model}", "--watch", "--settle-s", "0"), 1, "more than 0"),
        (("-m", "{model}", "--workers=0"), 1, "1 or more"),
        (("-m", "{model}", "--map", "1=path:*"), 1, "channels are 0 (CT)"),
        (("-m", "{model}", "--folds", "4"), 1, "no trained fold 4"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(arguments, code, message, src, model, tmp_path):
    words = [word.replace("{model}", str(model)) for word in arguments]
    done = segmentation_of(src, tmp_path / "dst", *words)
    assert done.returncode == code and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "dst").exists()


def test_folders_inside_each_other_are_refused(src, model, tmp_path):
    for source, destination in ((src, src / "dst"), (src / "study1", src)):
        done = run_here("nnunet-anatomix", "run", source, destination, "-m", model)
        assert done.returncode == 1 and "overlap" in done.stderr
    missing = run_here("nnunet-anatomix", "run", tmp_path / "none", tmp_path / "dst", "-m", model)
    assert missing.returncode == 1 and "expected a folder, found nothing" in missing.stderr
