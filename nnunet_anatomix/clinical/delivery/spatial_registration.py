"""Registration of two DICOM series as a Spatial Registration or Deformable Spatial Registration.

Both map between the coordinate systems of the patient, but in opposite directions: the matrix of a
Spatial Registration takes points of the moving series to the fixed one, the grid of a deformable
one takes points of the fixed series to the moving one, as resamplers need it (PS3.3, C.20.2.1.1 and
C.20.3.1.1).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from highdicom.base import SOPClass
from highdicom.sr import CodedConcept
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import DeformableSpatialRegistrationStorage, ExplicitVRLittleEndian, SpatialRegistrationStorage
from pydicom.valuerep import DA, TM, format_number_as_ds

from nnunet_anatomix.clinical.delivery.dicom_objects import (
    REGISTRATION_SERIES,
    clean_text,
    describe_instance,
    describe_patient,
)
from nnunet_anatomix.clinical.delivery.source_headers import fill_missing_tags
from nnunet_anatomix.clinical.dicom.quiet import quiet_readers
from nnunet_anatomix.clinical.intake.single_scan import find_series, is_dicom_path
from nnunet_anatomix.registration.formats.matrices import matrix_of
from nnunet_anatomix.registration.transforms import chain, steps
from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.imaging.grids import near_isotropic_grid

log = logging.getLogger(__name__)

_MAX_VECTORS = 128**3
"""Largest number of vectors of a grid: 24 MB. The displacement is smooth, and larger grids are
resampled.
"""
_RIGID = 1e-5
"""Largest deviation of a rigid matrix from an orthogonal one."""


def read_registered_series(path: Path, role: str) -> list[Dataset]:
    """Read the headers of a series to which a registration can refer.

    Args:
        path: Folder of one DICOM series, or file with all its slices.
        role: Name of the scan for messages: ``fixed`` or ``moving``.

    Returns:
        Header of each file, without pixels, with all tags that DICOM requires.

    Raises:
        InputError: If there is no such series, or it has no frame of reference.
    """
    if not is_dicom_path(path):
        raise InputError(
            f"{role}: expected a folder of DICOM files for --dicom, found {path}; pass the folder, or omit --dicom"
        )
    root, series = find_series(path, role)
    with quiet_readers():
        images: list[Dataset] = [
            dcmread(root / file, stop_before_pixels=True, force=True) for file in dict.fromkeys(series.files)
        ]
        _require_frame(images, role)
        fill_missing_tags(images)
    return images


def write_spatial_registration(
    path: Path, fixed: Sequence[Dataset], moving: Sequence[Dataset], forward: sitk.Transform
) -> None:
    """Write the DICOM object of a registration atomically.

    Args:
        path: File to write.
        fixed: Headers of the fixed series, see :func:`build_spatial_registration`.
        moving: Headers of the moving series.
        forward: Transform from points of the fixed series to points of the moving one, mm.
    """
    result = build_spatial_registration(fixed, moving, forward)
    with atomic_write(path) as partial, quiet_readers():
        result.save_as(partial, enforce_file_format=True)


def build_spatial_registration(
    fixed: Sequence[Dataset], moving: Sequence[Dataset], forward: sitk.Transform, *, description: str = ""
) -> SOPClass:
    """Build the DICOM object of a registration, in the study of the fixed series.

    Args:
        fixed: Headers of the fixed series, one per file, with all tags that DICOM requires.
        moving: Headers of the moving series.
        forward: Transform from points of the fixed series to points of the moving one, mm.
        description: Description of the series.

    Returns:
        Spatial Registration if the transform is linear, else Deformable Spatial Registration: the
        displacement as grid, the linear parts that follow it as matrix.

    Raises:
        InputError: If a series has no frame of reference, or the transform no inverse.

    Notes:
        Both items refer to the files of their series: two series may share a frame of reference,
        and the registration holds for the files alone.
    """
    _require_frame(fixed, "fixed")
    _require_frame(moving, "moving")
    is_linear = all(step.IsLinear() for step in steps(forward))
    result = SOPClass(
        sop_class_uid=SpatialRegistrationStorage if is_linear else DeformableSpatialRegistrationStorage,
        modality="REG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=clean_text(description or "Registration"),
        **describe_instance(REGISTRATION_SERIES),
        **describe_patient(fixed[0]),
    )
    result.copy_patient_and_study_information(fixed[0])
    now = datetime.now()
    result.ContentDate, result.ContentTime = DA(now.date()), TM(now.time())
    result.ContentLabel = "REGISTRATION"
    result.ContentDescription = "Automatic registration, not checked by a person"
    result.ContentCreatorName = ""  # no person made it
    result.Laterality = ""
    result.FrameOfReferenceUID = fixed[0].FrameOfReferenceUID
    result.PositionReferenceIndicator = fixed[0].get("PositionReferenceIndicator") or ""
    if is_linear:
        result.RegistrationSequence = [
            _matrix_item(fixed, np.eye(4), codes.DCM.FrameOfReferenceIdentity),
            _matrix_item(moving, _inverse_matrix(forward), codes.DCM.ImageContentBasedAlignment),
        ]
    else:
        result.DeformableRegistrationSequence = [
            _source_item(fixed, codes.DCM.FrameOfReferenceIdentity),
            _grid_item(moving, forward),
        ]
    _list_references(result, [*fixed, *moving])
    return result


def _require_frame(images: Sequence[Dataset], role: str) -> None:
    if not images or not images[0].get("FrameOfReferenceUID"):
        raise InputError(
            f"the {role} series has no FrameOfReferenceUID, without which DICOM cannot describe a registration; "
            "omit --dicom"
        )


def _matrix_item(images: Sequence[Dataset], matrix: np.ndarray, method: CodedConcept) -> Dataset:
    """Describe how points of a series move to the fixed series."""
    transform = Dataset()
    transform.MatrixSequence = [_matrix(matrix)]
    transform.RegistrationTypeCodeSequence = [CodedConcept.from_code(method)]
    item = Dataset()
    item.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    item.ReferencedImageSequence = [_reference(image) for image in images]
    item.MatrixRegistrationSequence = [transform]
    return item


def _source_item(images: Sequence[Dataset], method: CodedConcept) -> Dataset:
    item = Dataset()
    item.SourceFrameOfReferenceUID = images[0].FrameOfReferenceUID
    item.ReferencedImageSequence = [_reference(image) for image in images]
    item.RegistrationTypeCodeSequence = [CodedConcept.from_code(method)]
    return item


def _grid_item(images: Sequence[Dataset], forward: sitk.Transform) -> Dataset:
    """Describe which point of a series belongs to each point of the fixed series."""
    field, linear = _split(forward)
    field = _right_handed(_shrink(field))
    item = _source_item(images, codes.DCM.ImageContentBasedAlignment)
    axes = np.reshape(field.GetDirection(), (3, 3))
    grid = Dataset()
    grid.ImageOrientationPatient = _decimal_strings(axes[:, :2].T.ravel())
    grid.ImagePositionPatient = _decimal_strings(field.GetOrigin())
    grid.GridDimensions = list(field.GetSize())
    grid.GridResolution = list(field.GetSpacing())
    grid.VectorGridData = sitk.GetArrayFromImage(field).astype("<f4").tobytes()
    item.DeformableRegistrationGridSequence = [grid]
    item.PreDeformationMatrixRegistrationSequence = [_matrix(np.eye(4))]
    item.PostDeformationMatrixRegistrationSequence = [_matrix(matrix_of(linear))]
    return item


def _split(forward: sitk.Transform) -> tuple[sitk.Image, sitk.Transform]:
    """Split a transform into the displacement that comes first, mm, and what follows, linear.

    If another deformation follows, everything is sampled on the grid of the first one.
    """
    parts = steps(forward)
    deformations = [number for number, step in enumerate(parts) if not step.IsLinear()]
    first = parts[deformations[0]]
    if not isinstance(first, sitk.DisplacementFieldTransform):
        raise InputError(f"a {first.GetName()} cannot be written to DICOM, expected a displacement field; omit --dicom")
    field = first.GetDisplacementField()
    if deformations == [0]:
        return field, chain(parts[1:]) if parts[1:] else sitk.Transform()
    everything = sitk.TransformToDisplacementField(
        forward, sitk.sitkVectorFloat64, field.GetSize(), field.GetOrigin(), field.GetSpacing(), field.GetDirection()
    )
    return everything, sitk.Transform()


def _shrink(field: sitk.Image) -> sitk.Image:
    """Resample a field with too many vectors."""
    if field.GetNumberOfPixels() <= _MAX_VECTORS:
        return field
    grid = near_isotropic_grid(field, spacing_mm=min(field.GetSpacing()), at_most_voxels=_MAX_VECTORS)
    log.info("the DICOM object holds the displacement on a grid of %.2f mm", grid.GetSpacing()[0])
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid)
    resampler.SetUseNearestNeighborExtrapolator(True)  # the grid ends up to a voxel beyond the field
    return resampler.Execute(field)


def _right_handed(field: sitk.Image) -> sitk.Image:
    """Order the planes so that the third axis is the cross product of the first two."""
    axes = np.reshape(field.GetDirection(), (3, 3))
    if np.linalg.det(axes) > 0:
        return field
    flipped = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayViewFromImage(field)[::-1]), isVector=True)
    flipped.SetSpacing(field.GetSpacing())
    flipped.SetOrigin(field.TransformIndexToPhysicalPoint((0, 0, field.GetSize()[2] - 1)))
    flipped.SetDirection((axes * (1, 1, -1)).ravel().tolist())
    return flipped


def _inverse_matrix(forward: sitk.Transform) -> np.ndarray:
    matrix = matrix_of(forward)
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError("the transform is singular, expected one with an inverse; omit --dicom")
    return np.linalg.inv(matrix)


def _matrix(matrix: np.ndarray) -> Dataset:
    rotation = matrix[:3, :3]
    is_rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < _RIGID and np.linalg.det(rotation) > 0
    item = Dataset()
    item.FrameOfReferenceTransformationMatrixType = "RIGID" if is_rigid else "AFFINE"
    item.FrameOfReferenceTransformationMatrix = _decimal_strings(matrix.ravel())
    return item


def _decimal_strings(values: Sequence[float] | np.ndarray) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def _list_references(result: SOPClass, images: Sequence[Dataset]) -> None:
    """List all files that the object refers to, by study and series (C.12.2)."""

    def series_of(chosen: Sequence[Dataset]) -> list[Dataset]:
        by_series = []
        for uid, of_series in groupby(sorted(chosen, key=_series_uid), key=_series_uid):
            item = Dataset()
            item.SeriesInstanceUID = uid
            item.ReferencedInstanceSequence = [_reference(image) for image in of_series]
            by_series.append(item)
        return by_series

    unique = list({str(image.SOPInstanceUID): image for image in images}.values())
    own = [image for image in unique if image.StudyInstanceUID == result.StudyInstanceUID]
    result.ReferencedSeriesSequence = series_of(own)
    others = []
    for uid, of_study in groupby(
        sorted((image for image in unique if image.StudyInstanceUID != result.StudyInstanceUID), key=_study_uid),
        key=_study_uid,
    ):
        item = Dataset()
        item.StudyInstanceUID = uid
        item.ReferencedSeriesSequence = series_of(list(of_study))
        others.append(item)
    if others:
        result.StudiesContainingOtherReferencedInstancesSequence = others


def _series_uid(image: Dataset) -> str:
    return str(image.SeriesInstanceUID)


def _study_uid(image: Dataset) -> str:
    return str(image.StudyInstanceUID)
