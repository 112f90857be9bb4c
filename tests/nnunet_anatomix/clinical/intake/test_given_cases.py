"""Tests of the choice of series on inputs that failed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.intake import intake
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


def test_signed_and_unsigned_slices(cases, tmp_path):
    intake(cases / "03_signed_and_unsigned_slices", tmp_path / "out", model_of(tmp_path / "model", "CT"))
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz")))
    assert (values.min(), values.max(), values.dtype) == (-500, 388, np.int16)
