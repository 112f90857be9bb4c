"""Tests of the choice of series on inputs that failed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from nnunet_anatomix.clinical.intake.intake import IntakeResult, intake
from nnunet_anatomix.clinical.intake.reading import read_series
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.suitability import MIN_SLICES
from tests.nnunet_anatomix.clinical.intake.test_intake import model_of, rows


@pytest.fixture(scope="module")
def cases(data_root) -> Path:
    folder = data_root.parent / "cases" / "clinical"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    return folder


@pytest.mark.parametrize(
    ("name", "channel", "taken", "reason"),
    [
        ("07_philips_real_part_as_T1", "T1", [], "not magnitude: real part"),
        ("12_siemens_mosaic", "MRI", [], "Siemens mosaic"),
        ("14_t1_pre_gad_and_post_gad", "T1ce", ["02/IM0000"], "T1 without contrast agent"),
        ("14_t1_pre_gad_and_post_gad", "T1", ["01/IM0000"], "T1 after contrast agent"),
        (
            "18_totalsegmentator_layout",
            "CT",
            ["plain/patient1.nii.gz", "s0001/ct.nii.gz"],
            "mask or label map (values)",
        ),
    ],
)
def test_the_right_series_is_taken(cases, tmp_path, name, channel, taken, reason):
    table = rows(intake(cases / name, tmp_path / "out", model_of(tmp_path / "model", channel), dry_run=True))
    assert [f"{row['folder']}/{row['first_file']}" for row in table if row["taken"] == "waiting"] == taken
    assert any(reason in row["reason"] for row in table if row["taken"] == "no")


READ = {
    "01_enhanced_header_over_64k": ("MRI", (8, 8, 60), (0.7, 0.8, 2.0)),
    "02_ct_beside_dose_report": ("CT", (16, 16, 6), None),
    "05_deflated_over_64k": ("CT", (200, 220, 3), (0.7, 0.8, 2.5)),
    "06_spacing_between_slices_0": ("CT", (20, 24, 8), (0.7, 0.8, 2.5)),
    "09_enhanced_single_frame_files": ("MRI", (20, 24, 8), (0.7, 0.8, 2.0)),
    "11_nm_spect_multiframe": ("SPECT", (20, 24, 8), (0.7, 0.8, 2.5)),
    "17_rt_export_ct_and_rtstruct": ("CT", (20, 24, 20), None),
}


@pytest.mark.parametrize("name", READ)
def test_a_sound_series_is_read(cases, tmp_path, name):
    """Compare voxels with those of pydicom; three slices are read, but too few to be taken."""
    channel, size, spacing_mm = READ[name]
    series, strays = scan_tree((cases / name).resolve())
    (one,) = [each for each in series if not each.problem]
    assert not strays and all("not a scan" in each.problem for each in series if each is not one)
    image = read_series((cases / name).resolve(), one)
    assert image.GetSize() == size and (spacing_mm is None or image.GetSpacing() == pytest.approx(spacing_mm))
    planes = [plane for file in dict.fromkeys(one.files) for plane in planes_of(cases / name / file)]
    assert np.array_equal(sitk.GetArrayFromImage(image), np.stack(planes))
    taken = [
        row["taken"] for row in rows(intake_of(cases / name, tmp_path, channel)) if row["series_uid"] == one.series_uid
    ]
    assert taken == ["no" if size[2] < MIN_SLICES else "waiting"]


def planes_of(path: Path) -> np.ndarray:
    dataset = dcmread(path)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns) * slope + intercept


def intake_of(folder: Path, tmp_path: Path, channel: str) -> IntakeResult:
    return intake(folder, tmp_path / "out", model_of(tmp_path / "model", channel), dry_run=True)


def test_signed_and_unsigned_slices(cases, tmp_path):
    intake(cases / "03_signed_and_unsigned_slices", tmp_path / "out", model_of(tmp_path / "model", "CT"))
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz")))
    assert (values.min(), values.max(), values.dtype) == (-500, 388, np.int16)
