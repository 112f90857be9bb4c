"""Tests of the DICOM objects of a delivery with validators and readers of other projects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.commands.deliver import deliver
from pretraining.common.errors import InputError
from pretraining.imaging.grids import image_on
from tests.nnunet_anatomix.clinical.delivery.test_structure_set import OBLIQUE, anatomy
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, Change, ramp, write_series
from tests.nnunet_anatomix.clinical.intake_folder import take_series, write_prediction

NAMES = {"background": 0, "liver": 1, "kidney_left": 2, "Größe 3": 3, "liver tumour": 4}
ALL = {"rtstruct": True, "report": True, "secondary_capture": True}
KINDS = {
    "binary": {},
    "deflated": {"compress": True},
    "all frames": {"keep_empty_frames": True},
    "label map": {"segmentation_type": "labelmap"},
    "RLE label map": {"segmentation_type": "labelmap", "compress": True},
    "label map with all frames": {"segmentation_type": "labelmap", "keep_empty_frames": True},
}


class Clinic:
    """One series, its labels, and what is delivered of them."""

    def __init__(
        self, folder: Path, labels: np.ndarray, *, direction=AXIAL, modality: str = "CT", change: Change | None = None
    ) -> None:
        self.folder, self.labels = folder, labels
        size = labels.shape[::-1]
        self.files = write_series(folder / "src", ramp(size), direction=direction, modality=modality, change=change)
        grid = take_series(folder / "intake", folder / "src", self.files, channel=modality)
        write_prediction(folder / "pred", image_on(grid, labels), labels=NAMES)

    def deliver(self, **options: object) -> Path:
        dicom = DicomOptions(**options)
        deliver(self.folder / "pred", self.folder / "dst", intake=self.folder / "intake", dicom=dicom)
        return self.folder / "dst"

    def instances(self) -> list[str]:
        return [dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in self.files]


@pytest.fixture
def clinic(tmp_path) -> Clinic:
    return Clinic(tmp_path, anatomy())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_segmentation_gives_back_the_labels(kind, clinic):
    path = clinic.deliver(**KINDS[kind]) / "segmentations" / "case_001.dcm"
    segmentation = highdicom.seg.segread(path)
    is_labelmap, is_compressed = "label map" in kind, kind in ("deflated", "RLE label map")
    assert segmentation.SegmentationType == ("LABELMAP" if is_labelmap else "BINARY")
    compressed = RLELossless if is_labelmap else DeflatedExplicitVRLittleEndian
    syntax = segmentation.file_meta.TransferSyntaxUID
    assert syntax == (compressed if is_compressed else ExplicitVRLittleEndian)
    slices = 9 if "all frames" in kind else 8  # the first slice is empty
    if is_labelmap:
        assert segmentation.NumberOfFrames == slices
    else:
        filled = sum(int((clinic.labels == n).any(axis=(1, 2)).sum()) for n in (1, 2, 3))
        assert segmentation.NumberOfFrames == (4 * slices if "all frames" in kind else filled)
    for number in (1, 2, 3, 4):
        found = segmentation.get_pixels_by_source_instance(
            clinic.instances(), segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        assert np.array_equal(found[..., 0], clinic.labels == number)


def test_a_compressed_segmentation_is_smaller(clinic):
    sizes = {}
    for kind in KINDS:
        sizes[kind] = (clinic.deliver(**KINDS[kind]) / "segmentations" / "case_001.dcm").stat().st_size
    assert sizes["deflated"] < sizes["binary"] / 3 and sizes["RLE label map"] < sizes["label map"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "label map" in kind])
def test_an_empty_prediction_as_label_map_keeps_its_segments(kind, tmp_path):
    clinic = Clinic(tmp_path, np.zeros((5, 9, 7), dtype=np.uint8))
    segmentation = highdicom.seg.segread(clinic.deliver(**KINDS[kind]) / "segmentations" / "case_001.dcm")
    assert {1, 2, 3, 4} <= set(segmentation.segment_numbers) and not segmentation.pixel_array.any()
    assert segmentation.NumberOfFrames == (5 if "all frames" in kind else 1)


def test_overlapping_regions_are_refused_as_label_map(clinic):
    regions = {"background": 0, "whole": [1, 2, 3], "core": 2}
    scan = sitk.ReadImage(str(clinic.folder / "pred" / "case_001.nii.gz"))
    write_prediction(clinic.folder / "pred", scan, labels=regions, regions_class_order=[1, 2])
    with pytest.raises(InputError, match=r"regions of this model overlap; use --segmentation-type binary"):
        clinic.deliver(segmentation_type="labelmap")
    assert not (clinic.folder / "dst").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="Debian package dicom3tools is not installed")
@pytest.mark.parametrize(
    ("kind", "modality", "direction", "labelled"),
    [
        ("binary", "CT", AXIAL, True),
        ("binary", "MR", OBLIQUE, True),
        ("binary", "CT", OBLIQUE, False),
        ("deflated", "PT", AXIAL, True),
        ("all frames", "CT", OBLIQUE, True),
        ("all frames", "CT", AXIAL, False),
    ],
)
def test_dciodvfy_finds_no_error(kind, modality, direction, labelled, tmp_path):
    """Label maps are left out: Debian's version is older than Supplement 243."""
    clinic = Clinic(tmp_path, anatomy() * labelled, direction=direction, modality=modality)
    written = sorted(clinic.deliver(**ALL, **KINDS[kind]).rglob("*.dcm"))
    assert [path.parent.name for path in written] == ["reports", "rtstructs", "secondary_captures", "segmentations"]
    for path in written:
        if kind == "deflated" and path.parent.name == "segmentations":
            inflated = dcmread(path)  # Debian's version is built without zlib
            inflated.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path = tmp_path / "inflated.dcm"
            inflated.save_as(path)
        checked = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        assert checked.returncode == 0 and "Error" not in checked.stdout + checked.stderr, checked.stderr


def test_invalid_optional_tags_of_the_source_are_left_out(tmp_path):
    def spoil(dataset, k):
        with quiet_readers():  # pydicom doubts them too
            dataset.PatientAge = "45"
            dataset.PatientBirthTime = "99"
            dataset.ProcedureCodeSequence = []
            dataset.PatientWeight = "80.5"
            dataset.AccessionNumber = "longer than sixteen characters"  # archives match by it

    clinic = Clinic(tmp_path, anatomy(), change=spoil)
    for path in clinic.deliver(rtstruct=True, report=True).rglob("*.dcm"):
        stored = dcmread(path)
        assert not {"PatientAge", "PatientBirthTime", "ProcedureCodeSequence"} & set(stored.dir())
        assert stored.PatientWeight == 80.5 and stored.StudyDescription == "Studie Müller"
        assert stored.AccessionNumber == "longer than sixteen characters"


def run_dcmqi(program: str, *arguments: object) -> None:
    """Run a program of dcmqi; it must succeed."""
    pytest.importorskip("dcmqi", reason="pip install dcmqi")
    command = [Path(sys.executable).parent / program, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    assert done.returncode == 0 and not [line for line in said.splitlines() if line.startswith(("E:", "F:", "ERROR"))]


@pytest.mark.parametrize(("kind", "direction"), [("binary", AXIAL), *((kind, OBLIQUE) for kind in KINDS)])
def test_dcmqi_gives_back_the_labels(kind, direction, tmp_path):
    clinic = Clinic(tmp_path, anatomy(), direction=direction)
    path = clinic.deliver(**KINDS[kind]) / "segmentations" / "case_001.dcm"
    (tmp_path / "read").mkdir()
    run_dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path / "read", "-t", "nrrd")
    grid = sitk.ReadImage(str(tmp_path / "dst" / "nifti" / "case_001.nii.gz"))
    merged = np.zeros(clinic.labels.shape, dtype=np.uint8)
    for file in (tmp_path / "read").glob("*.nrrd"):
        image = sitk.Resample(sitk.ReadImage(str(file)), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        merged = np.maximum(merged, sitk.GetArrayFromImage(image))
    assert np.array_equal(merged, clinic.labels)


@pytest.mark.parametrize("kind", ["binary", "label map"])
def test_the_report_tells_the_volumes(kind, clinic):
    destination = clinic.deliver(report=True, **KINDS[kind])
    report = highdicom.sr.srread(destination / "reports" / "case_001.dcm")
    segmentation = dcmread(destination / "segmentations" / "case_001.dcm")
    source = dcmread(clinic.files[0])
    assert report.StudyInstanceUID == source.StudyInstanceUID and report.PatientID == source.PatientID
    assert report.SeriesInstanceUID != segmentation.SeriesInstanceUID
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(NAMES)[1:]
    for number, group in enumerate(groups, 1):
        (volume,) = group.get_measurements(name=highdicom.sr.CodedConcept("118565006", "SCT", "Volume"))
        assert volume.value == pytest.approx((clinic.labels == number).sum() * 0.8 * 0.7 * 2.5 / 1000, rel=1e-5)
        assert volume.unit.value == "mL"
        (referred,) = group.referenced_segment[0].ReferencedSOPSequence
        assert referred.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert referred.ReferencedSegmentNumber == number
    assert groups[0].finding_type.meaning == "Liver" and not groups[0].finding_sites
    (kidney,), (tumour,) = groups[1].finding_sites, groups[3].finding_sites
    assert kidney.laterality.meaning == "Left" and tumour.value.meaning == "Liver"


def test_dcmqi_reads_the_report(clinic, tmp_path):
    path = clinic.deliver(report=True) / "reports" / "case_001.dcm"
    run_dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "report.json")
    groups = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["Measurements"]
    volumes_ml = [float(group["measurementItems"][0]["value"]) for group in groups]
    expected = [(clinic.labels == number).sum() * 0.8 * 0.7 * 2.5 / 1000 for number in (1, 2, 3, 4)]
    assert volumes_ml == pytest.approx(expected, rel=1e-5)
    assert [group["ReferencedSegment"] for group in groups] == [1, 2, 3, 4]


def test_the_secondary_capture_is_the_overview(clinic):
    destination = clinic.deliver(secondary_capture=True)
    captured = dcmread(destination / "secondary_captures" / "case_001.dcm")
    picture = imread(destination / "overviews" / "case_001.png")[..., :3]
    assert captured.StudyInstanceUID == dcmread(clinic.files[0]).StudyInstanceUID
    assert captured.BurnedInAnnotation == "NO"
    assert np.array_equal(captured.pixel_array, np.rint(255 * picture).astype(np.uint8))
