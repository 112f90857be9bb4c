"""Transforms of ITK: reading from files, inversion, and moving points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.formats.reading import read_foreign
from nnunet_anatomix.registration.warp import displacement_of, invert, itk_transform
from pretraining.common.errors import InputError
from pretraining.imaging.scans import quiet_itk, read_image

FORWARD = "forward.h5"
"""Complete transform in the folder of a registration."""
_TOLERANCE_MM = 1e-5
"""Largest change of an iteration at which a point counts as found."""
_ITERATIONS = 200
_AFFINE = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
"""Points that determine an affine transform, mm."""


def read_transform(
    path: Path,
    role: str,
    advice: str = "pass another file",
    scans: tuple[sitk.Image, sitk.Image] | None = None,
) -> sitk.Transform:
    """Read a transform from a file.

    Args:
        path: Transform of ITK or ANTs (``.mat``, ``.tfm``, ``.txt``, ``.h5``), of FreeSurfer
            (``.lta``), a linear one of elastix or, with ``scans``, FSL; a displacement field as an
            image; or the folder of a registration, whose ``forward.h5`` is read.
        role: Name of the transform for messages.
        advice: What to do instead, for messages.
        scans: Fixed and moving scan, if known.

    Returns:
        The transform, three-dimensional and finite.

    Raises:
        InputError: If the file cannot be read, or is not such a transform.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FORWARD
    transform = read_foreign(path, role, scans)
    try:
        if transform is None and path.is_file():
            with quiet_itk():
                transform = sitk.ReadTransform(str(path))
    except RuntimeError:
        transform = None
    if transform is None:
        field = read_image(path, role, vectors=True)
        if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
            raise InputError(
                f"{role}: {path} is neither a transform of ITK nor a displacement field of 3 components; {advice}"
            )
        transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    if transform.GetDimension() != 3:
        raise InputError(f"{role}: {path} has {transform.GetDimension()} dimensions, expected 3; {advice}")
    if not all(_is_finite(step) for step in steps(transform)):
        raise InputError(f"{role}: {path} holds NaN or infinity; create it again, or {advice}")
    return transform


def steps(transform: sitk.Transform) -> list[sitk.Transform]:
    """Return the parts of a transform, in the order in which they are applied to a point."""
    composite = sitk.CompositeTransform([transform])
    composite.FlattenTransform()
    parts = [composite.GetNthTransform(number).Downcast() for number in range(composite.GetNumberOfTransforms())]
    return parts[::-1]


def chain(parts: list[sitk.Transform]) -> sitk.CompositeTransform:
    """Join transforms, given in the order in which they are applied to a point."""
    composite = sitk.CompositeTransform(parts[::-1])
    composite.FlattenTransform()
    return composite


def invert_transform(transform: sitk.Transform, role: str = "transform") -> sitk.Transform:
    """Invert a transform made of linear parts and displacement fields.

    Args:
        transform: Transform to invert.
        role: Name of the transform for messages.

    Returns:
        The inverse. Fields are inverted on their own grids; beyond these they move nothing, in both
        directions.

    Raises:
        InputError: If a part is singular, or neither linear nor a displacement field.
    """
    return chain([_invert_step(step, role) for step in reversed(steps(transform))])


def move_points(transform: sitk.Transform, points_mm: np.ndarray) -> np.ndarray:
    """Apply a transform to points.

    Args:
        transform: Any transform.
        points_mm: (N, 3), LPS, mm.

    Returns:
        (N, 3), LPS, mm.
    """
    return np.array([transform.TransformPoint(point) for point in points_mm.tolist()]).reshape(-1, 3)


def find_sources(transform: sitk.Transform, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the points that a transform moves to given ones, without the error of an inverse field.

    Args:
        transform: Transform of linear parts and deformations.
        points_mm: (N, 3), LPS, mm.

    Returns:
        The sources, (N, 3), LPS, mm, and whether each was found, (N,) bool. Sources are not found
        where the transform folds.

    Raises:
        InputError: If a linear part is singular.
    """
    sources, is_found = np.asarray(points_mm, dtype=float), np.ones(len(points_mm), dtype=bool)
    for step in reversed(steps(transform)):
        if step.IsLinear():
            sources = move_points(_invert_step(step, "transform"), sources)
            continue
        targets = sources
        for _ in range(_ITERATIONS):
            missing = targets - move_points(step, sources)
            sources = sources + missing
            if np.abs(missing).max(initial=0.0) < _TOLERANCE_MM:
                break
        is_found &= (np.abs(targets - move_points(step, sources)) < 10 * _TOLERANCE_MM).all(axis=1)
    return sources, is_found


def total_displacement_mm(transform: sitk.Transform, grid: sitk.Image) -> np.ndarray:
    """Sample what a transform adds to the positions of all voxels.

    Args:
        transform: Any transform.
        grid: Image on the grid to sample.

    Returns:
        (3, X, Y, Z) float32, mm, LPS.
    """
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).transpose(3, 2, 1, 0))


def _invert_step(step: sitk.Transform, role: str) -> sitk.Transform:
    if step.IsLinear():
        corners = move_points(step, np.array(_AFFINE))
        if abs(np.linalg.det(corners[1:] - corners[0])) < 1e-9:
            raise InputError(f"{role}: its matrix is singular, expected one with an inverse; create it again")
        return step.GetInverse()
    if not isinstance(step, sitk.DisplacementFieldTransform):
        raise InputError(
            f"{role}: no inverse for a {step.GetName()}, expected linear parts and displacement fields; "
            "sample it to a displacement field"
        )
    field = step.GetDisplacementField()
    grid = sitk.Image(field.GetSize(), sitk.sitkUInt8)
    grid.CopyInformation(field)
    return itk_transform(invert(displacement_of(step, grid)), grid)


def _is_finite(step: sitk.Transform) -> bool:
    if isinstance(step, sitk.DisplacementFieldTransform):
        return bool(np.isfinite(sitk.GetArrayFromImage(step.GetDisplacementField())).all())
    return bool(np.isfinite(step.GetParameters()).all() and np.isfinite(step.GetFixedParameters()).all())
