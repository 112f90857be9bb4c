"""Tests of run manifests: what a run was given, what became of it, and that none is lost."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from nnunet_anatomix.clinical import manifest as manifest_module
from nnunet_anatomix.clinical.cases import read_source, source_file
from nnunet_anatomix.clinical.delivery import deliver as deliver_module
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.intake.intake import intake
from nnunet_anatomix.clinical.manifest import ModelFiles, record_run
from nnunet_anatomix.commands.deliver import deliver
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.common.versions import VERSION
from pretraining.imaging.grids import image_on
from tests.nnunet_anatomix.clinical.dicom_series import PATIENT, PATIENT_NUMBER, write_series
from tests.nnunet_anatomix.clinical.intake_folder import LABELS, write_prediction


def manifests(folder: Path) -> list[dict]:
    """Return the manifests of a folder, oldest first."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "manifests").glob("*.json"))]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    """Let every run start in a new second, so that files sort by time."""
    seconds = iter(range(10_000))

    def tick() -> str:
        return datetime.fromtimestamp(1_800_000_000 + next(seconds), manifest_module.timezone.utc).isoformat()

    for module in (manifest_module, deliver_module):
        monkeypatch.setattr(module, "format_time", tick)
    monkeypatch.setattr("nnunet_anatomix.clinical.intake.intake.format_time", tick)


@pytest.fixture
def model(tmp_path) -> Path:
    """Return the folder of a trained model."""
    folder = tmp_path / "Dataset001_Test" / "AnatomixTrainer__nnUNetAnatomixPlans__3d_fullres"
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(b"weights of fold %d" % fold)
        (folder / f"fold_{fold}" / "checkpoint_best.pth").write_bytes(b"not used by default")
    described = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(described))
    (folder / "plans.json").write_text(
        json.dumps({"plans_name": "nnUNetAnatomixPlans", "dataset_name": "Dataset001_Test"})
    )
    return folder


@pytest.fixture
def clinic(tmp_path, model) -> Path:
    """Return a folder with scans ``src``, of which two CTs are taken, and predictions."""
    for number in (1, 2):
        write_series(tmp_path / "src" / f"Müller {number}", patient_id=f"P{number}")
    write_series(tmp_path / "src" / "other", modality="MR", patient_id="P3")
    intake(tmp_path / "src", tmp_path / "intake", str(model))
    predict(tmp_path)
    return tmp_path


def predict(clinic: Path) -> None:
    for path in sorted((clinic / "intake" / "sources").glob("*.json")):
        grid = read_source(path).grid
        labels = np.random.default_rng(0).integers(0, 3, grid.size[::-1]).astype(np.uint8)
        write_prediction(clinic / "pred", image_on(grid, labels), case=path.stem)


def run_delivery(clinic: Path, **options: object) -> dict:
    """Deliver, and return the manifest of this run."""
    try:
        deliver(clinic / "pred", clinic / "dst", intake=clinic / "intake", overview=False, **options)
    finally:
        written = manifests(clinic / "dst")[-1]
    return written


def test_an_intake_tells_inputs_decisions_and_software(clinic, model):
    (told,) = manifests(clinic / "intake")
    assert (told["command"], told["outcome"]) == ("intake", "completed")
    assert (
        told["software"]["nnunet-anatomix"] == VERSION and {"nnunetv2", "torch", "pydicom"} <= told["software"].keys()
    )
    assert datetime.fromisoformat(told["started"]) < datetime.fromisoformat(told["finished"])
    assert told["model"]["sha256"] == {name: sha256(model / name) for name in ("dataset.json", "plans.json")}
    assert [row["taken"] for row in told["series"]] == ["yes", "yes", "no"]
    assert told["series"][2]["reason"] == "modality MR, expected CT"
    for number, entry in enumerate(told["cases"], 1):
        (given,) = entry["inputs"]
        source = dcmread(next((clinic / "src" / f"Müller {number}").iterdir()))
        assert (given["study_uid"], given["series_uid"]) == (source.StudyInstanceUID, source.SeriesInstanceUID)
        image = clinic / "intake" / "images" / f"case_00{number}_0000.nii.gz"
        assert entry["outputs"] == {f"images/{image.name}": {"bytes": image.stat().st_size}}
        assert (entry["case"], entry["status"], given["files"]) == (f"case_00{number}", "done", 8)


def test_a_second_intake_tells_what_is_new_and_keeps_what_was_told(clinic, model):
    intake(clinic / "src", clinic / "intake", str(model))
    assert len(manifests(clinic / "intake")) == 1  # nothing changed
    write_series(clinic / "src" / "z", patient_id="P4")
    intake(clinic / "src", clinic / "intake", str(model))
    first, second = manifests(clinic / "intake")
    assert [entry["status"] for entry in first["cases"]] == ["done", "done"]
    assert [entry["status"] for entry in second["cases"]] == ["unchanged", "unchanged", "done"]


def test_a_delivery_tells_weights_inputs_outputs_and_times(clinic, model):
    told = run_delivery(clinic, model=str(model), dicom=DicomOptions(rtstruct=True))
    assert (told["command"], told["outcome"]) == ("deliver", "completed")
    weights = {name: digest for name, digest in told["model"]["sha256"].items() if name.endswith(".pth")}
    finals = [f"fold_{fold}/checkpoint_final.pth" for fold in (0, 1)]
    assert weights == {name: sha256(model / name) for name in finals}
    assert told["model"]["name"] == "Dataset001_Test" and told["model"]["parameters"]["trainer"] == "AnatomixTrainer"
    assert told["model"]["remark"] == "" and told["settings"]["rtstruct"] is True
    for entry in told["cases"]:
        source = read_source(source_file(clinic / "intake", entry["case"]))
        assert entry["status"] == "done" and told["started"] < entry["finished"] < told["finished"]
        assert [given["series_uid"] for given in entry["inputs"]] == [source.channels[0].series_uid]
        assert len(entry["outputs"]) == 3
        for name, described in entry["outputs"].items():
            path = clinic / "dst" / name
            assert described["bytes"] == path.stat().st_size
            if path.suffix == ".dcm":
                assert described["sop_instance_uid"] == dcmread(path).SOPInstanceUID


def test_a_delivery_tells_why_a_case_failed_and_what_stayed(clinic):
    run_delivery(clinic)
    next((clinic / "src" / "Müller 1").iterdir()).unlink()
    (clinic / "dst" / "nifti" / "case_001.nii.gz").unlink()
    with pytest.raises(CommandFailed):
        run_delivery(clinic)
    first, second = manifests(clinic / "dst")
    assert [entry["status"] for entry in first["cases"]] == ["done", "done"]
    assert [entry["status"] for entry in second["cases"]] == ["failed", "unchanged"]
    assert "of the source series is missing" in second["cases"][0]["reason"]
    assert second["outcome"].startswith("CommandFailed: 1 of 2 cases failed")
    assert second["cases"][1]["finished"] == first["cases"][1]["finished"]  # the time when it was made


def test_a_stopped_delivery_tells_what_it_did_not_reach(clinic, monkeypatch):
    run_delivery(clinic)
    build = deliver_module.build_case_files

    def stop_at_the_second(case: str, *arguments: object) -> object:
        if case == "case_002":
            raise KeyboardInterrupt
        return build(case, *arguments)

    monkeypatch.setattr(deliver_module, "build_case_files", stop_at_the_second)
    with pytest.raises(Interrupted):
        run_delivery(clinic, dicom=DicomOptions(rtstruct=True))
    told = manifests(clinic / "dst")[-1]
    assert told["outcome"].startswith("Interrupted: stopped at case 2 of 2") and told["finished"]
    assert [entry["status"] for entry in told["cases"]] == ["done", "not reached"]


def other_plans(clinic, model):
    (model / "plans.json").write_text('{"plans_name": "others"}')
    return str(model)


def no_weights(clinic, model):
    for path in model.rglob("*.pth"):
        path.unlink()
    return str(model)


def two_models(clinic, model):
    other = model.with_name("Other__nnUNetAnatomixPlans__3d_fullres")
    other.mkdir()
    for name in ("dataset.json", "plans.json"):
        (other / name).write_bytes((model / name).read_bytes())
    (other / "fold_all").mkdir()
    (other / "fold_all" / "checkpoint_final.pth").write_bytes(b"others")


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (other_plans, "no trained model has the plans of the predictions"),
        (no_weights, "no trained model has the plans of the predictions"),
        (two_models, "2 trained models have the plans of the predictions"),
    ],
)
def test_weights_that_are_not_certain_are_not_told(change, remark, clinic, model, nnunet_results):
    told = run_delivery(clinic, model=change(clinic, model))
    assert remark in told["model"]["remark"] and not [name for name in told["model"]["sha256"] if "fold" in name]


def test_the_only_model_with_these_plans_is_found(clinic, model, nnunet_results):
    assert "fold_0/checkpoint_final.pth" in run_delivery(clinic)["model"]["sha256"]


@pytest.fixture
def nnunet_results(model, monkeypatch) -> None:
    """Let nnU-Net find the model below ``nnUNet_results``."""
    monkeypatch.setenv("nnUNet_results", str(model.parent.parent))


def test_a_manifest_tells_no_patient(clinic, model):
    run_delivery(clinic, model=str(model))
    texts = [path.read_text(encoding="utf-8") for path in clinic.rglob("manifests/*.json")]
    secrets = ("Müller", "Jürgen", PATIENT, PATIENT_NUMBER, "19501231", "Schröder", "ACC-0815", "Geheim")
    assert len(texts) == 2 and not [secret for secret in secrets if secret in "".join(texts)]


def test_a_run_that_breaks_off_is_told_and_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "format_time", lambda: "2026-01-02T03:04:05.678+00:00")
    with (
        pytest.raises(InputError, match=r"a\sb"),
        record_run(tmp_path, "deliver", model=ModelFiles(), settings={"format": "both"}),
    ):
        (running,) = manifests(tmp_path)
        raise InputError("a\nb")
    with record_run(tmp_path, "deliver", model=ModelFiles(), settings={}) as told:
        told.cases = [manifest_module.CaseEntry(case="case_001", status="done")]
    first, second = manifests(tmp_path)
    assert running["outcome"] == "running" and running["finished"] == ""  # what stays if the process is killed
    assert (first["outcome"], second["outcome"]) == ("InputError: a b", "completed")
    assert first["settings"] == {"format": "both"} and first["finished"]
