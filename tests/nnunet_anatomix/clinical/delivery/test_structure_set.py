"""Tests of RT Structure Sets: outlines give back the labels, in readers of other projects too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from skimage.measure import grid_points_in_poly

from nnunet_anatomix.clinical.delivery.dicom_options import DicomOptions
from nnunet_anatomix.clinical.delivery.slice_contours import trace_outlines
from nnunet_anatomix.clinical.delivery.source_headers import SlicePlacement, SourceHeaders
from nnunet_anatomix.clinical.delivery.structure_set import build_structure_set
from nnunet_anatomix.clinical.delivery.structures import Structure, Structures
from nnunet_anatomix.commands.deliver import deliver
from pretraining.imaging.grids import image_on
from tests.nnunet_anatomix.clinical.dicom_series import AXIAL, CORONAL, PATIENT, SAGITTAL, ramp, write_series
from tests.nnunet_anatomix.clinical.intake_folder import take_series, write_prediction

_TILT, _TURN = np.deg2rad(20), np.deg2rad(33)
OBLIQUE = np.array([[1, 0, 0], [0, np.cos(_TILT), np.sin(_TILT)], [0, -np.sin(_TILT), np.cos(_TILT)]])
TWICE_OBLIQUE = OBLIQUE @ [[np.cos(_TURN), np.sin(_TURN), 0], [-np.sin(_TURN), np.cos(_TURN), 0], [0, 0, 1]]
DOWNWARD = ((1, 0, 0), (0, 1, 0), (0, 0, -1))
NAMES = {"background": 0, "liver": 1, "kidney_left": 2, "Größe 3": 3, "spleen": 4}


def anatomy() -> np.ndarray:
    """Return labels (Z, Y, X) with holes, an island in a hole, components, and voxels at edges."""
    z, y, x = np.ogrid[:9, :34, :40]
    radius = np.hypot(x - 20, 1.1 * (y - 17)) + 0.3 * z
    labels = np.zeros((9, 34, 40), dtype=np.uint8)
    labels[radius < 15] = 1
    labels[radius < 10] = 0  # a hole, with an island in it
    labels[radius < 6] = 1
    labels[(np.hypot(x - 20, y - 5) < 2) & (z > 2)] = 2  # fills another hole
    labels[:, :4, -5:] = 3  # at the edges of the image
    labels[:, 30:, 2:7] = 3
    labels[2, 32, 15] = labels[2, 31, 16] = 3  # single voxels, diagonal neighbours
    labels[0] = 0
    return labels


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def filled(contours: list[Dataset], placements: dict[tuple, tuple[int, np.ndarray, np.ndarray]], shape) -> np.ndarray:
    """Return the mask (Z, Y, X) whose voxel centres are inside, by the plainest rule."""
    mask = np.zeros(shape, dtype=bool)
    for contour in contours:
        (image,) = contour.ContourImageSequence
        k, corner_mm, steps_mm = placements[
            (image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber") or 1))
        ]
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - corner_mm
        assert contour.NumberOfContourPoints == len(points) and contour.ContourGeometricType == "CLOSED_PLANAR"
        assert np.abs(points @ np.cross(*steps_mm)).max() < 1e-3  # in the plane of its slice
        indices = np.linalg.lstsq(steps_mm.T, points.T, rcond=None)[0].T  # row, column
        mask[k] ^= grid_points_in_poly(shape[1:], indices)
    return mask


def placements_of(files: list[Path]) -> dict[tuple, tuple[int, np.ndarray, np.ndarray]]:
    """(SOPInstanceUID, frame) → slice, position, and steps from row to row and column to column."""
    found = {}
    for k, file in enumerate(files):
        header = dcmread(file, stop_before_pixels=True)
        along_row, along_column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        steps_mm = np.array([along_column * header.PixelSpacing[0], along_row * header.PixelSpacing[1]])
        found[(header.SOPInstanceUID, 1)] = (k, np.array(header.ImagePositionPatient, dtype=float), steps_mm)
    return found


@pytest.fixture
def given(tmp_path):
    """Deliver labels of a series with some direction; return its slices and the structure set."""

    def make(labels: np.ndarray, direction=AXIAL) -> tuple[list[Path], Path]:
        files = write_series(tmp_path / "src", ramp(labels.shape[::-1]), direction=direction)
        grid = take_series(tmp_path / "intake", tmp_path / "src", files)
        write_prediction(tmp_path / "pred", image_on(grid, labels), labels=NAMES)
        options = DicomOptions(rtstruct=True)
        deliver(tmp_path / "pred", tmp_path / "dst", intake=tmp_path / "intake", overview=False, dicom=options)
        return files, tmp_path / "dst" / "rtstructs" / "case_001.dcm"

    return make


DIRECTIONS = pytest.mark.parametrize(
    "direction",
    [AXIAL, DOWNWARD, CORONAL, SAGITTAL, OBLIQUE, TWICE_OBLIQUE],
    ids=["axial", "downward", "coronal", "sagittal", "oblique", "twice oblique"],
)


@DIRECTIONS
def test_outlines_on_the_source_slices_hold_exactly_the_labelled_voxels(direction, given):
    labels = anatomy()
    files, path = given(labels, direction)
    stored, placements = dcmread(path), placements_of(files)
    for number, collected in enumerate(stored.ROIContourSequence, 1):
        mask = filled(collected.get("ContourSequence", []), placements, labels.shape)
        assert collected.ReferencedROINumber == number and np.array_equal(mask, labels == number)


@DIRECTIONS
def test_a_reader_of_another_project_gives_back_the_labels(direction, given, tmp_path, monkeypatch):
    reader = pytest.importorskip("dcmrtstruct2nii", reason="pip install dcmrtstruct2nii")
    monkeypatch.setattr(pydicom, "read_file", dcmread, raising=False)  # the name before pydicom 3
    labels = anatomy()
    files, path = given(labels, direction)
    reader.dcmrtstruct2nii(str(path), str(files[0].parent), str(tmp_path / "read"))
    grid = sitk.ReadImage(str(tmp_path / "dst" / "nifti" / "case_001.nii.gz"))
    for name, number in (("liver", 1), ("kid", 2), ("Gr", 3)):
        (found,) = (tmp_path / "read").glob(f"mask_{name}*.nii.gz")
        mask = sitk.Resample(sitk.ReadImage(str(found)), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        assert dice(sitk.GetArrayFromImage(mask) > 0, labels == number) >= 0.98


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="Debian package plastimatch is not installed")
@DIRECTIONS
def test_plastimatch_gives_back_the_labels(direction, given, tmp_path):
    labels = anatomy()
    files, path = given(labels, direction)
    command = ["plastimatch", "convert", "--input", path, "--referenced-ct", files[0].parent]
    command += ["--output-prefix", tmp_path / "read", "--prefix-format", "nii.gz"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    grid = sitk.ReadImage(str(tmp_path / "dst" / "nifti" / "case_001.nii.gz"))
    for name, number in (("liver", 1), ("kidney_left", 2)):
        image = sitk.ReadImage(str(tmp_path / "read" / f"{name}.nii.gz"))
        mask = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        assert dice(sitk.GetArrayFromImage(mask) > 0, labels == number) >= 0.98


def test_the_structure_set_belongs_to_the_source(given):
    files, path = given(anatomy())
    stored, source = dcmread(path), dcmread(files[0])
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert stored.get(keyword) == source.get(keyword)
    assert str(stored.PatientName) == PATIENT and stored.Modality == "RTSTRUCT"
    (study,) = stored.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in series.ContourImageSequence] == [
        dcmread(file).SOPInstanceUID for file in files
    ]
    assert [region.ROIName for region in stored.StructureSetROISequence] == list(NAMES)[1:]
    observed = stored.RTROIObservationsSequence
    assert observed[0].RTROIIdentificationCodeSequence[0].CodeMeaning == "Liver"
    assert "RTROIIdentificationCodeSequence" not in observed[2]
    assert len({tuple(one.ROIDisplayColor) for one in stored.ROIContourSequence}) == 4
    assert "ContourSequence" not in stored.ROIContourSequence[3]  # no spleen was found


def test_an_outline_may_be_longer_than_64_kb(given):
    labels = np.zeros((3, 1000, 30), dtype=np.uint8)
    labels[1, ::2] = 1  # a comb: one component with a very long outline
    labels[1, :, 0] = 1
    files, path = given(labels, OBLIQUE)
    (contour,) = dcmread(path).ROIContourSequence[0].ContourSequence
    assert sum(len(str(value)) + 1 for value in contour.ContourData) > 2**16
    assert np.array_equal(filled([contour], placements_of(files), labels.shape), labels == 1)


def test_frames_of_a_multi_frame_source_are_referred_to_by_number(tmp_path):
    labels = anatomy()
    files = write_series(tmp_path / "single", ramp(labels.shape[::-1]))
    enhanced = LegacyConvertedEnhancedCTImage(
        [dcmread(file) for file in files[::-1]],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    z = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in enhanced.PerFrameFunctionalGroupsSequence
    ]
    frames = tuple(int(number) + 1 for number in np.argsort(z))
    placed = list(placements_of(files).values())
    source = SourceHeaders(
        [enhanced],
        [position for _, position, _ in placed],
        frames,
        placements=tuple(_placement(position, steps) for _, position, steps in placed),
    )
    stored = build_structure_set(source, labels, _structures(), "model")
    by_frame = {(enhanced.SOPInstanceUID, frame): placed[k] for k, frame in enumerate(frames)}
    for number in (1, 3):
        mask = filled(stored.ROIContourSequence[number - 1].ContourSequence, by_frame, labels.shape)
        assert np.array_equal(mask, labels == number)


def test_slices_may_be_shifted_and_unevenly_spaced(tmp_path):
    """The slices of a tilted gantry, or of a series with variable spacing."""

    def move(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient = [0, 0.7 * k, 2.5 * k + 0.2 * k**2]

    labels = anatomy()
    files = write_series(tmp_path / "src", ramp(labels.shape[::-1]), change=move)
    placed = placements_of(files)
    source = SourceHeaders(
        [dcmread(file) for file in files],
        [position for _, position, _ in placed.values()],
        placements=tuple(_placement(position, steps) for _, position, steps in placed.values()),
    )
    stored = build_structure_set(source, labels, _structures(), "model")
    for number in (1, 3):
        mask = filled(stored.ROIContourSequence[number - 1].ContourSequence, placed, labels.shape)
        assert np.array_equal(mask, labels == number)


def _placement(position_mm: np.ndarray, steps_mm: np.ndarray) -> SlicePlacement:
    spacing_mm = np.linalg.norm(steps_mm, axis=1)
    return SlicePlacement(position_mm, (steps_mm / spacing_mm[:, None])[::-1], tuple(spacing_mm))


def _structures() -> Structures:
    return Structures(all=tuple(Structure(name=name, labels=(n,)) for name, n in NAMES.items() if n))


@pytest.mark.parametrize("density", [0.03, 0.4, 0.6, 0.97])
def test_any_mask_is_filled_alike_by_every_rule(density):
    mask = np.random.default_rng(7).random((23, 31)) < density
    polygons = trace_outlines(mask)
    parity, winding = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape, dtype=int)
    for polygon in polygons:
        parity ^= grid_points_in_poly(mask.shape, polygon)
        winding += _winding(mask.shape, polygon)
    assert np.array_equal(parity, mask)
    assert np.array_equal(winding != 0, mask) and set(np.unique(np.abs(winding))) <= {0, 1}
    # No polygon covers the hole of another: the union of all is the mask too.
    union = np.any([grid_points_in_poly(mask.shape, polygon) for polygon in polygons], axis=0)
    assert np.array_equal(union, mask)
    assert trace_outlines(np.zeros((4, 5), dtype=bool)) == []


def _winding(shape: tuple[int, int], polygon: np.ndarray) -> np.ndarray:
    """Return how often a polygon turns around each pixel centre: crossings of a ray, with sign."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    turns = np.zeros(shape, dtype=int)
    for (row1, column1), (row2, column2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if row1 == row2:
            continue
        at = column1 + (rows - row1) * (column2 - column1) / (row2 - row1)
        crossed = (np.minimum(row1, row2) <= rows) & (rows < np.maximum(row1, row2)) & (at > columns)
        turns += crossed * int(np.sign(row2 - row1))
    return turns
