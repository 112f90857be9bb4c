"""Tests of CT that is not marked as original, and of harmless oddities of its geometry tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.intake import intake
from tests.nnunet_anatomix.clinical.dicom_series import CORONAL, ramp, write_series
from tests.nnunet_anatomix.clinical.intake.test_intake import model_of, rows


def lossy(dataset, k):
    dataset.LossyImageCompression = "01"


CHANGED = {
    "derived": {"image_type": ("DERIVED", "PRIMARY", "AXIAL")},
    "secondary": {"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")},
    "lossy": {"change": lossy},
    "lossy and derived": {"image_type": ("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), "change": lossy},
}
OTHERS = {
    "both": {"image_type": ("DERIVED", "SECONDARY", "AXIAL")},
    "MPR": {"image_type": ("DERIVED", "PRIMARY", "AXIAL", "MPR")},
    "localizer": {"image_type": ("ORIGINAL", "SECONDARY", "LOCALIZER")},
    "MIP": {"image_type": ("DERIVED", "PRIMARY", "AXIAL"), "description": "Thorax MIP"},
    "coronal": {"image_type": ("DERIVED", "PRIMARY", "AXIAL"), "direction": CORONAL},
    "MR": {"image_type": ("DERIVED", "PRIMARY", "AXIAL"), "modality": "MR"},
}


def dry(tmp_path: Path, channel: str = "CT", **settings: object) -> list[dict[str, str]]:
    model = tmp_path / "model"
    model = model_of(model, channel) if not model.exists() else str(model)
    return rows(intake(tmp_path / "src", tmp_path / "none", model, dry_run=True, **settings))


@pytest.mark.parametrize("how", CHANGED)
def test_a_ct_whose_image_type_was_changed_is_taken_and_this_is_said(tmp_path, how):
    write_series(tmp_path / "src", **CHANGED[how])
    (row,) = dry(tmp_path)
    assert row["taken"] == "waiting"
    assert ("not an original image (ImageType" in row["reason"]) == (how != "lossy")
    assert ("lossy compression" in row["reason"]) == ("lossy" in how)
    (row,) = dry(tmp_path, originals_only=True)
    assert row["taken"] == "no" and ("not an original" in row["reason"] or "lossy compression" in row["reason"])


@pytest.mark.parametrize("how", [how for how in CHANGED if how != "lossy"])
def test_an_original_goes_first(tmp_path, how):
    ids = {"study_uid": "1.2.3", "frame_uid": "1.2.4"}
    write_series(tmp_path / "src" / "a", ramp((20, 16, 16)), **CHANGED[how], **ids)
    write_series(tmp_path / "src" / "b", ramp(), **ids)
    changed, original = dry(tmp_path)
    assert original["taken"] == "waiting" and changed["reason"] == "series 2 fits better: original image"


@pytest.mark.parametrize("how", OTHERS)
def test_other_images_that_are_not_original_are_not_taken(tmp_path, how):
    write_series(tmp_path / "src", **OTHERS[how])
    (row,) = dry(tmp_path, "MRI" if how == "MR" else "CT")
    assert row["taken"] == "no" and row["reason"]


@pytest.mark.parametrize("coding", ["explicit", "deflated", "rle", "jpegls", "jpeg2000", "jpeg"])
@pytest.mark.parametrize("spacing_mm", [0, -2.5, 7])
def test_positions_decide_where_other_tags_contradict(tmp_path, coding, spacing_mm):
    def change(dataset, k):
        dataset.SpacingBetweenSlices = spacing_mm

    write_series(tmp_path / "src", coding=coding, change=change)
    intake(tmp_path / "src", tmp_path / "out", model_of(tmp_path / "model", "CT"))
    image = sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), ramp() - 1024)
    assert image.GetSpacing() == pytest.approx((0.8, 0.7, 2.5))
