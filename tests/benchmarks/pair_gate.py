"""Misalignment of pairs that are said to lie on each other, measured by two methods.

A warp of such a pair can be scored only as well as the pair is aligned. Each pair is registered as
it is, by MIND-SSC (``register`` without a start) and by rigid mutual information (SimpleITK). What
the body moves by, the median over its voxels, is the pair's own misalignment, or the error of the
method. Where either is above :data:`LIMIT_MM`, the moving scan is moved rigidly, and the pair is
measured again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from skimage.filters import threshold_otsu

from pretraining.common.tables import markdown_table
from tests.benchmarks.registration_rows import Pair, add_row, has_row, read_rows, register_pair

LIMIT_MM = 1.5
"""Misalignment above which a pair is aligned rigidly first, mm."""
_SAMPLES = 0.2
"""Share of voxels that the mutual information samples."""


def gated(pair: Pair, out: Path) -> Pair:
    """Measure a pair, unless an earlier run did, and return it as warps are applied to it.

    Args:
        pair: Pair as its headers place it.
        out: CSV of the measurements.

    Returns:
        The pair, its moving scan moved rigidly if it was misaligned. Its voxels are unchanged.
    """
    if not has_row(out, pair=pair.name):
        rigid = rigid_by_mutual_information(pair)
        before = (mind_mm(pair), moved_by_mm(pair, rigid))
        is_moved = max(before) > LIMIT_MM
        after: tuple[float, float] | tuple[str, str] = ("", "")
        if is_moved:
            aligned = move_rigidly(pair, rigid)
            after = (mind_mm(aligned), moved_by_mm(aligned, rigid_by_mutual_information(aligned)))
        add_row(
            out,
            {"pair": pair.name}
            | dict(zip(("mind_mm", "rigid_mi_mm"), before, strict=True))
            | {"moved": is_moved}
            | dict(zip(("mind_after_mm", "rigid_mi_after_mm"), after, strict=True))
            | {"rigid": " ".join(f"{value:.6f}" for value in (*rigid.GetCenter(), *rigid.GetParameters()))},
        )
    row = next(row for row in read_rows(out) if row["pair"] == pair.name)
    if row["moved"] != "True":
        return pair
    values = [float(value) for value in row["rigid"].split()]
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(values[:3])
    rigid.SetParameters(values[3:])
    return move_rigidly(pair, rigid)


def rigid_by_mutual_information(pair: Pair) -> sitk.Euler3DTransform:
    """Register rigidly by SimpleITK's mutual information; from fixed to moving points."""
    fixed, moving = (sitk.Cast(image, sitk.sitkFloat32) for image in (pair.fixed, pair.moving))
    if clip := pair.clips.get("fixed_clip"):
        fixed = sitk.Clamp(fixed, sitk.sitkFloat32, *clip)
    if clip := pair.clips.get("moving_clip"):
        moving = sitk.Clamp(moving, sitk.sitkFloat32, *clip)
    start = sitk.CenteredTransformInitializer(
        fixed, fixed, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLES, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    return sitk.Euler3DTransform(sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform())


def move_rigidly(pair: Pair, rigid: sitk.Euler3DTransform) -> Pair:
    """Move the moving scan and its labels in space, by their headers alone.

    Args:
        pair: Pair.
        rigid: Transform from points of the fixed to points of the moving scan.
    """
    rotation: np.ndarray = np.reshape(rigid.GetMatrix(), (3, 3))
    inverse = rigid.GetInverse()

    def moved(image: sitk.Image) -> sitk.Image:
        copy = sitk.Image(image)
        copy.SetOrigin(inverse.TransformPoint(image.GetOrigin()))
        copy.SetDirection((rotation.T @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
        return copy

    return replace(pair, moving=moved(pair.moving), moving_labels=moved(pair.moving_labels))


def mind_mm(pair: Pair) -> float:
    """Median over the body of what MIND-SSC alone moves the pair by, mm."""
    return moved_by_mm(pair, register_pair(pair, "mind", "").forward)


def moved_by_mm(pair: Pair, transform: sitk.Transform) -> float:
    """Median over the body of a transform's displacement, mm."""
    return round(float(np.median(np.linalg.norm(vectors_mm(transform, pair), axis=-1))), 3)


def vectors_mm(transform: sitk.Transform, pair: Pair) -> np.ndarray:
    """Displacement of a transform at every second voxel of the body along each axis, (N, 3), mm.

    The body are the labelled regions of a brain, else the fixed scan above Otsu's threshold.
    """
    if pair.name.startswith("brain"):
        body = sitk.GetArrayFromImage(pair.fixed_labels) > 0
    else:
        values = sitk.GetArrayFromImage(pair.fixed)
        body = values > threshold_otsu(values)
    grid = pair.fixed[::2, ::2, ::2]
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    return sitk.GetArrayFromImage(field)[body[::2, ::2, ::2]]


def gate_table(out: Path) -> str:
    """The measurements, as Markdown."""
    columns = ["pair", "mind_mm", "rigid_mi_mm", "moved", "mind_after_mm", "rigid_mi_after_mm"]
    return markdown_table(columns, [[row[column] for column in columns] for row in read_rows(out)])
