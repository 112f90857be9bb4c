"""Tests of DICOM objects of tilted series, frames of several files, and mosaics, end to end."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.cases import read_source, source_file
from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.source_headers import read_source_headers
from tests.nnunet_anatomix.clinical.delivery.test_structure_set import filled, placements_of
from tests.nnunet_anatomix.clinical.dicom_series import ramp
from tests.nnunet_anatomix.clinical.frame_files import write_mosaic
from tests.nnunet_anatomix.clinical.phantom import Scan, dice, labels, predict
from tests.nnunet_anatomix.clinical.test_original_slices import (
    SCANS,
    delivered,
    enhanced_files,
    seeds_on,
    single_frames,
    spect,
    taken,
)

ALL = DicomOptions(rtstruct=True, report=True, secondary_capture=True)


def contours_of(structure_set: Dataset, number: int) -> list[Dataset]:
    return list(structure_set.ROIContourSequence[number - 1].get("ContourSequence", []))


def instances_named(dataset: Dataset) -> set[str]:
    """Return all instances that a DICOM object refers to, at any level."""
    return {str(item.value) for item in dataset.iterall() if item.keyword == "ReferencedSOPInstanceUID"}


@pytest.mark.parametrize("how", ["oblique tilt", "two spacings, tilted", "downward"])
def test_contours_return_to_the_original_slices(how, tmp_path):
    scan = Scan(tmp_path / "src", **SCANS[how])
    _, image, _ = taken(tmp_path, tmp_path / "src")
    delivered(tmp_path, predict(image), dicom=ALL)
    structure_set, truth = dcmread(tmp_path / "dst" / "rtstructs" / "case_001.dcm"), labels(scan.points_mm)
    placements = placements_of(scan.files)
    for number in (1, 2):
        assert dice(filled(contours_of(structure_set, number), placements, truth.shape), truth == number) >= 0.98
    assert_valid(tmp_path / "dst")


@pytest.mark.parametrize(("write", "channel"), [(enhanced_files, "MRI"), (single_frames, "MRI"), (spect, "SPECT")])
def test_contours_refer_to_files_and_frames(write, channel, tmp_path):
    (tmp_path / "src").mkdir()
    slices = write(tmp_path / "src")
    _, image, _ = taken(tmp_path, tmp_path / "src", channel)
    prediction, values = seeds_on(image)
    segmentation = delivered(tmp_path, prediction, dicom=ALL)
    headers = read_source_headers(read_source(source_file(tmp_path / "intake", "case_001")))
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path, _ in slices]
    placements = {}
    for k, (uid, (_, frame), place) in enumerate(zip(uids, slices, headers.placements, strict=True)):
        steps_mm = place.orientation[::-1] * np.reshape(place.spacing_mm, (2, 1))
        placements[(uid, frame)] = (k, place.position_mm, steps_mm)
    structure_set = dcmread(tmp_path / "dst" / "rtstructs" / "case_001.dcm")
    for number in (1, 2):
        assert np.array_equal(filled(contours_of(structure_set, number), placements, values.shape), values == number)
    (study,) = structure_set.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    named = [str(one.ReferencedSOPInstanceUID) for one in study.RTReferencedSeriesSequence[0].ContourImageSequence]
    assert sorted(named) == sorted(set(uids))
    report = dcmread(tmp_path / "dst" / "reports" / "case_001.dcm")
    assert instances_named(report) <= {*uids, str(segmentation.SOPInstanceUID)}
    assert_valid(tmp_path / "dst")


def test_contours_on_a_mosaic_name_its_file(tmp_path):
    (tmp_path / "src").mkdir()
    path = write_mosaic(tmp_path / "src" / "a", ramp((20, 16, 10)))
    _, image, _ = taken(tmp_path, tmp_path / "src", "MRI")
    prediction, values = seeds_on(image)
    delivered(tmp_path, prediction, dicom=ALL)
    structure_set = dcmread(tmp_path / "dst" / "rtstructs" / "case_001.dcm")
    corner_mm, steps_mm = np.array(image.GetOrigin()), np.diag(image.GetSpacing())[[1, 0]]
    uid = str(dcmread(path).SOPInstanceUID)
    for number in (1, 2):
        found = np.zeros(values.shape, dtype=bool)
        for contour in contours_of(structure_set, number):
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            k = round((points[0, 2] - corner_mm[2]) / image.GetSpacing()[2])
            place = (k, np.add(corner_mm, (0, 0, k * image.GetSpacing()[2])), steps_mm)
            found |= filled([contour], {(uid, 1): place}, values.shape)
        assert np.array_equal(found, values == number)
    (study,) = structure_set.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 1


def assert_valid(destination: Path) -> None:
    """Assert that dciodvfy, where installed, finds no error in any object."""
    if shutil.which("dciodvfy") is None:
        return
    for path in destination.rglob("*.dcm"):
        checked = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        assert checked.returncode == 0 and "Error" not in checked.stdout + checked.stderr, (path, checked.stderr)
