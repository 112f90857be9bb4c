"""Tests of registrations as DICOM objects, read back by the equations of the standard."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage

from nnunet_anatomix.clinical.delivery import spatial_registration
from nnunet_anatomix.clinical.delivery.spatial_registration import build_spatial_registration
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.clinical.dicom_series import write_series

SIZE = (7, 6, 5)


def headers(folder: Path, **options) -> list[Dataset]:
    return [dcmread(file, stop_before_pixels=True) for file in write_series(folder, **options)]


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> tuple[list[Dataset], list[Dataset]]:
    """Return two series of one patient, of different studies and frames of reference."""
    folder = tmp_path_factory.mktemp("series")
    voxels = np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE[::-1])
    return headers(folder / "fixed", voxels=voxels), headers(folder / "moving", voxels=voxels, modality="MR")


def turn(degrees: float = 20.0) -> sitk.AffineTransform:
    rigid = sitk.Euler3DTransform((3.0, -7.0, 11.0), 0.1, np.deg2rad(degrees), -0.2, (40.0, -25.0, 1000.0))
    turned = sitk.AffineTransform(3)
    turned.SetMatrix(rigid.GetMatrix())
    turned.SetTranslation(rigid.GetTranslation())
    turned.SetCenter(rigid.GetCenter())
    return turned


def stretched() -> sitk.AffineTransform:
    stretch = turn()
    stretch.Scale((1.1, 0.9, 1.05))
    return stretch


def field(*, left_handed: bool = False) -> sitk.DisplacementFieldTransform:
    """Return a displacement on an oblique grid of different sides and spacings."""
    vectors = np.random.default_rng(5).normal(scale=4.0, size=(*SIZE[::-1], 3))
    image = sitk.GetImageFromArray(vectors, isVector=True)
    axes = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix(), (3, 3)).copy()
    axes[:, 2] *= -1 if left_handed else 1
    image.SetDirection(axes.ravel().tolist())
    image.SetSpacing((2.0, 3.0, 4.5))
    image.SetOrigin((-12.5, 31.0, 700.25))
    return sitk.DisplacementFieldTransform(image)


def points_inside(grid: sitk.Image) -> np.ndarray:
    index = np.random.default_rng(1).uniform(0.2, 0.8, (9, 3)) * (np.array(grid.GetSize()) - 1)
    return np.array([grid.TransformContinuousIndexToPhysicalPoint(one.tolist()) for one in index])


def matrix_of(item: Dataset) -> np.ndarray:
    return np.array(item.FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)


def map_point(item: Dataset, point: np.ndarray) -> np.ndarray:
    """Map a point of the registered frame to the source by the equation of PS3.3, C.20.3.1.1."""
    (grid,) = item.DeformableRegistrationGridSequence
    sides = np.array(grid.GridDimensions)
    vectors = np.frombuffer(grid.VectorGridData, dtype="<f4").reshape(*sides[::-1], 3)
    row, column = np.array(grid.ImageOrientationPatient, dtype=float).reshape(2, 3)
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    (before,), (after,) = item.PreDeformationMatrixRegistrationSequence, item.PostDeformationMatrixRegistrationSequence
    point = (matrix_of(before) @ [*point, 1])[:3]
    index = axes.T @ (point - np.array(grid.ImagePositionPatient, dtype=float)) / np.array(grid.GridResolution)
    low = np.floor(index).astype(int)
    moved = point.copy()
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, index - low, 1 - index + low))
        moved += weight * vectors[tuple((low + corner)[::-1])]
    return (matrix_of(after) @ [*moved, 1])[:3]


def read_back(result: Dataset, path: Path) -> Dataset:
    result.save_as(path, enforce_file_format=True)
    if shutil.which("dciodvfy"):
        checked = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        assert checked.returncode == 0 and "Error" not in checked.stdout + checked.stderr, checked.stderr
    return dcmread(path)


@pytest.mark.parametrize(("transform", "kind"), [(turn(), "RIGID"), (stretched(), "AFFINE")], ids=["rigid", "affine"])
def test_the_matrix_takes_points_of_the_moving_series_to_the_fixed_one(transform, kind, series, tmp_path):
    fixed, moving = series
    read = read_back(build_spatial_registration(fixed, moving, transform), tmp_path / "reg.dcm")
    assert read.SOPClassUID == SpatialRegistrationStorage and read.Modality == "REG"
    own, other = read.RegistrationSequence
    (identity,), (matrix,) = (one.MatrixRegistrationSequence[0].MatrixSequence for one in (own, other))
    np.testing.assert_array_equal(matrix_of(identity), np.eye(4))
    assert matrix.FrameOfReferenceTransformationMatrixType == kind
    for point in ((0.0, 0.0, 0.0), (-50.0, 31.0, 812.0)):
        there = transform.TransformPoint(point)
        np.testing.assert_allclose((matrix_of(matrix) @ [*there, 1])[:3], point, atol=1e-6)


@pytest.mark.parametrize("left_handed", [False, True], ids=["right-handed", "left-handed"])
def test_the_grid_takes_points_of_the_fixed_series_to_the_moving_one(left_handed, series, tmp_path):
    displacement = field(left_handed=left_handed)
    forward = sitk.CompositeTransform([stretched(), displacement])  # the last one is applied first
    read = read_back(build_spatial_registration(*series, forward), tmp_path / "reg.dcm")
    assert read.SOPClassUID == DeformableSpatialRegistrationStorage
    own, other = read.DeformableRegistrationSequence
    assert "DeformableRegistrationGridSequence" not in own
    for point in points_inside(displacement.GetDisplacementField()):
        np.testing.assert_allclose(map_point(other, point), forward.TransformPoint(point.tolist()), atol=1e-4)


def test_deformations_in_a_row_become_one_grid(series, tmp_path):
    second = sitk.DisplacementFieldTransform(
        sitk.TransformToDisplacementField(stretched(), sitk.sitkVectorFloat64, (40, 40, 40), (-80, -40, 660), (4, 4, 4))
    )
    first = field()
    forward = sitk.CompositeTransform([second, first])
    read = read_back(build_spatial_registration(*series, forward), tmp_path / "reg.dcm")
    grid = first.GetDisplacementField()
    for index in ((0, 0, 0), (3, 2, 4), (6, 5, 4)):  # a grid holds vectors at voxels
        point = np.array(grid.TransformIndexToPhysicalPoint(index)) + 1e-9
        inside = np.minimum(np.array(index), np.array(SIZE) - 2) == index
        if inside.all():
            found = map_point(read.DeformableRegistrationSequence[1], point)
            np.testing.assert_allclose(found, forward.TransformPoint(point.tolist()), atol=1e-3)


def test_a_large_grid_is_made_coarser(series, monkeypatch):
    smooth = sitk.Image((40, 30, 20), sitk.sitkVectorFloat64, 3)
    ramp = sitk.DisplacementFieldTransform(
        sitk.TransformToDisplacementField(
            stretched(), sitk.sitkVectorFloat64, smooth.GetSize(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        )
    )
    monkeypatch.setattr(spatial_registration, "_MAX_VECTORS", 3000)
    item = build_spatial_registration(*series, ramp).DeformableRegistrationSequence[1]
    assert np.prod(item.DeformableRegistrationGridSequence[0].GridDimensions) <= 3000
    for point in ((5.0, 7.0, 3.0), (30.0, 22.0, 12.5)):
        np.testing.assert_allclose(map_point(item, np.array(point)), ramp.TransformPoint(point), atol=1e-3)


def test_the_object_belongs_to_the_fixed_series_and_refers_to_all_files(series):
    fixed, moving = series
    result = build_spatial_registration(fixed, moving, turn())
    assert (result.StudyInstanceUID, result.PatientID) == (fixed[0].StudyInstanceUID, fixed[0].PatientID)
    assert result.FrameOfReferenceUID == fixed[0].FrameOfReferenceUID
    assert result.SeriesInstanceUID not in (fixed[0].SeriesInstanceUID, moving[0].SeriesInstanceUID)
    for item, images in zip(result.RegistrationSequence, series, strict=True):
        assert item.FrameOfReferenceUID == images[0].FrameOfReferenceUID
        named = [one.ReferencedSOPInstanceUID for one in item.ReferencedImageSequence]
        assert named == [image.SOPInstanceUID for image in images]
    (own,) = result.ReferencedSeriesSequence
    (study,) = result.StudiesContainingOtherReferencedInstancesSequence
    assert (own.SeriesInstanceUID, study.StudyInstanceUID) == (fixed[0].SeriesInstanceUID, moving[0].StudyInstanceUID)


def test_series_of_one_study_and_frame_are_told_apart_by_their_files(tmp_path):
    fixed = headers(tmp_path / "fixed", study_uid="1.2.3", frame_uid="1.2.4")
    moving = headers(tmp_path / "moving", study_uid="1.2.3", frame_uid="1.2.4")
    read = read_back(build_spatial_registration(fixed, moving, turn()), tmp_path / "reg.dcm")
    assert len(read.ReferencedSeriesSequence) == 2
    assert "StudiesContainingOtherReferencedInstancesSequence" not in read
    own, other = (
        {one.ReferencedSOPInstanceUID for one in item.ReferencedImageSequence} for item in read.RegistrationSequence
    )
    assert not own & other


def test_without_a_frame_of_reference_it_is_refused(series, tmp_path):
    def omit(dataset, k):
        del dataset.FrameOfReferenceUID

    with pytest.raises(InputError, match="the moving series has no FrameOfReferenceUID"):
        build_spatial_registration(series[0], headers(tmp_path, change=omit), turn())


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="Debian package plastimatch is not installed")
def test_plastimatch_writes_the_same_matrix(series, tmp_path):
    transform = turn()
    sitk.WriteTransform(transform, str(tmp_path / "forward.tfm"))
    for name in ("fixed", "moving"):
        write_series(tmp_path / name, voxels=np.ones(SIZE[::-1], np.int16), patient_name="A")
    command = "plastimatch xf-convert --input forward.tfm --output-dicom out --fixed-image fixed --moving-image moving"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    (written,) = (tmp_path / "out").glob("sro*.dcm")
    theirs, ours = (
        [matrix_of(one.MatrixRegistrationSequence[0].MatrixSequence[0]) for one in result.RegistrationSequence]
        for result in (dcmread(written), build_spatial_registration(*series, transform))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
