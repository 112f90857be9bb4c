"""DICOM objects and manifests of one command from scans to results, with a stand-in for nnU-Net."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydicom import dcmread

from nnunet_anatomix.clinical.running import prediction
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.miniature_model import write_model
from tests.nnunet_anatomix.clinical.running.stand_in import StandIn


def test_a_run_delivers_all_objects_and_tells_which_weights_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "run_child", StandIn())
    write_series(tmp_path / "src" / "study")
    model, dst = write_model(tmp_path / "Dataset777_Mini"), tmp_path / "dst"
    flags = ("--no-overview", "--workers", "1", "--rtstruct", "--report", "--secondary-capture", "--compress")
    done = run_here("nnunet-anatomix", "run", tmp_path / "src", dst, "-m", model, "--folds", "all", *flags)
    assert done.returncode == 0, done.stderr
    (manifest,) = (dst / "results" / "manifests").iterdir()
    told = json.loads(manifest.read_text(encoding="utf-8"))
    names = ["dataset.json", "plans.json", "fold_all/checkpoint_final.pth"]
    assert told["model"]["sha256"] == {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in names}
    assert told["model"]["name"] == "Dataset777_Mini" and told["outcome"] == "completed"
    (entry,) = told["cases"]
    modalities = {}
    for file, described in entry["outputs"].items():
        if file.endswith(".dcm"):
            stored = dcmread(dst / "results" / file, stop_before_pixels=True)
            assert described["sop_instance_uid"] == stored.SOPInstanceUID
            modalities[file.split("/")[0]] = stored.Modality
    assert modalities.keys() == {"segmentations", "rtstructs", "reports", "secondary_captures"}
    assert [modalities[folder] for folder in ("segmentations", "rtstructs", "reports")] == ["SEG", "RTSTRUCT", "SR"]
    assert len(list((dst / "intake" / "manifests").iterdir())) == 1


@pytest.mark.parametrize("flag", ["--rtstruct", "--report", "--secondary-capture"])
def test_objects_without_dicom_are_refused_before_anything_is_written(flag, tmp_path):
    write_series(tmp_path / "src" / "study")
    model = write_model(tmp_path / "Dataset777_Mini")
    command = ("run", tmp_path / "src", tmp_path / "dst", "-m", model, "--folds", "all", "--format", "nifti", flag)
    done = run_here("nnunet-anatomix", *command)
    assert done.returncode != 0 and "--format nifti writes no DICOM" in done.stderr
    assert not (tmp_path / "dst").exists()
