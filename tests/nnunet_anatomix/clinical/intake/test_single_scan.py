"""Tests of scans named as folders of DICOM files, for register."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.single_scan import read_scan
from nnunet_anatomix.commands.apply import apply
from nnunet_anatomix.registration.batch import BatchSettings, PairFiles
from nnunet_anatomix.registration.config import RegistrationConfig
from pretraining.common.errors import InputError
from tests.in_process import run_here
from tests.nnunet_anatomix.clinical.dicom_series import PATIENT_NUMBER, ramp, write_series


def test_a_folder_is_read_as_hounsfield_units_on_its_grid(tmp_path):
    paths = write_series(tmp_path / "ct")
    image = read_scan(tmp_path / "ct", "fixed")
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp() - 1024)
    assert image.GetSpacing() == pytest.approx((0.8, 0.7, 2.5)) and image.GetOrigin()[2] == pytest.approx(-300.25)
    with pytest.raises(InputError, match=r"no DICOM series can be used: .* another folder"):
        read_scan(paths[0], "fixed")


def test_the_given_series_is_read_as_by_gdcm(data_root):
    folder = data_root / "dicom" / "ct_series"
    theirs = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    ours = read_scan(folder, "fixed")
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-3)


def test_a_dose_report_beside_the_scan_does_not_matter(data_root):
    folder = data_root.parent / "cases" / "clinical" / "02_ct_beside_dose_report"
    assert min(read_scan(folder, "fixed").GetSize()) > 1


def test_folders_without_exactly_one_scan_are_refused_in_one_line(tmp_path):
    write_series(tmp_path / "two" / "a")
    write_series(tmp_path / "two" / "b", modality="MR", description=f"of {PATIENT_NUMBER}")
    write_series(tmp_path / "gap")[3].unlink()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no scan")
    for name, said in (
        ("two", r"expected one scan, found 2 \(CT 20×16×8, MR 20×16×8\)"),
        ("gap", "no DICOM series can be used: .*missing"),
        ("none", "found no DICOM file"),
        ("gone", "no such file"),
    ):
        with pytest.raises(InputError, match=f"moving: .*{said}") as refused:
            read_scan(tmp_path / name, "moving")
        assert "\n" not in str(refused.value) and PATIENT_NUMBER not in str(refused.value)


def test_folders_are_registered_by_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_series(Path("fixed"), ramp((20, 16, 18)))
    write_series(Path("moving"), ramp((20, 16, 18), seed=1))
    flags = ["--features", "none", "--init", "none", "--grid-spacing", "4", "--reach", "2", "--device", "cpu"]
    run_here("nnunet-anatomix", "register", "--fixed", "fixed", "--moving", "moving", "--out", "out", *flags)
    assert json.loads(Path("out/registration.json").read_text())["files"] == {
        "name": "out",
        "fixed": "fixed",
        "moving": "moving",
    }


def test_a_changed_file_of_a_folder_makes_another_pair(tmp_path):
    settings = BatchSettings(config=RegistrationConfig(), weights=None)
    paths = write_series(tmp_path / "ct")
    pair = PairFiles(name="a", fixed=tmp_path / "ct", moving=tmp_path / "ct")
    before = settings.fingerprint(pair)
    assert settings.fingerprint(pair) == before
    paths[2].write_bytes(paths[2].read_bytes() + b"\0")
    assert settings.fingerprint(pair) != before


def test_labels_are_moved_onto_the_grid_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_series(Path("fixed"))
    scan = read_scan("fixed", "fixed")
    sitk.WriteImage(sitk.Cast(scan > -800, sitk.sitkUInt8), "labels.nii.gz")
    sitk.WriteTransform(sitk.TranslationTransform(3), "identity.tfm")
    apply(Path("out"), Path("identity.tfm"), (Path("labels.nii.gz"), Path("fixed")), Path("fixed"))
    moved = {name: sitk.ReadImage(f"out/{name}.nii.gz") for name in ("labels", "fixed")}
    assert np.array_equal(sitk.GetArrayFromImage(moved["fixed"]), sitk.GetArrayFromImage(scan))
    assert np.array_equal(sitk.GetArrayFromImage(moved["labels"]), sitk.GetArrayFromImage(scan) > -800)
