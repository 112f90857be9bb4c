"""Last level of a linear registration: mutual information of the scans at full resolution (ITK)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.start.affine import Stage
from pretraining.backbone.inference import Clip

log = logging.getLogger(__name__)

START_VOXELS = 80**3
"""Size of the grids for a start that this level refines, voxels."""
_BINS = 32
_SAMPLES = 50_000
"""Number of places that are compared, on a regular grid from which each is moved a little."""
_STEP_VOXELS = 0.5
"""First step; ITK scales the parameters such that it moves the scan by that much."""
_BACKWARD_STEP_VOXELS = 0.1
"""First step of the second direction, which starts where the first one ended."""
_LEAST_STEP_VOXELS = 2e-3
"""Step at which a descent stops."""
_ITERATIONS = 60
_SEED = 1
"""Seed of the choice of places."""
_FURTHEST_MM = 15.0
"""Greatest movement of a corner; a descent that goes further has lost the optimum."""

LinearTransform = sitk.AffineTransform | sitk.VersorRigid3DTransform
"""Transform of a stage: affine, or rigid."""


def refine_by_information(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: sitk.Transform,
    stage: Stage,
    *,
    clips: Sequence[Clip | None] = (None, None),
    masks: Sequence[sitk.Image | None] = (None, None),
) -> sitk.Transform:
    """Maximize the mutual information of two scans over linear transforms near a start.

    Args:
        fixed: Fixed scan, validated.
        moving: Moving scan, validated.
        start: Linear transform from points of the fixed scan to points of the moving scan, about a
            voxel of :func:`nnunet_anatomix.registration.start.initial.best_start` from the optimum.
        stage: ``rigid``, or ``affine``.
        clips: Intensity ranges of the fixed and moving scan.
        masks: Masks of the fixed and moving scan, above 0 where they count.

    Returns:
        The transform; ``start`` if a descent fails, goes far away or gains nothing.

    Notes:
        The mean of two registrations, fixed to moving and moving to fixed: where one scan ends
        inside the other, and in how it interpolates, each is wrong in another way, and the mean is
        half as wrong. Descriptors are blunter: see docs/results.md.
    """
    scans = [
        sitk.Clamp(scan, sitk.sitkFloat32, *clip) if clip else scan
        for scan, clip in zip((sitk.Cast(scan, sitk.sitkFloat32) for scan in (fixed, moving)), clips, strict=True)
    ]
    forward = _maximize(scans[0], scans[1], _as_stage(start, fixed, stage), masks, _STEP_VOXELS)
    if forward is None:
        return start
    inverse = _as_stage(forward.GetInverse(), moving, stage)
    backward = _maximize(scans[1], scans[0], inverse, masks[::-1], _BACKWARD_STEP_VOXELS)
    return forward if backward is None else _mean(forward, backward.GetInverse(), fixed, stage)


def _maximize(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: LinearTransform,
    masks: Sequence[sitk.Image | None],
    step_voxels: float,
) -> LinearTransform | None:
    """Maximize the mutual information in one direction; None if that fails or gains nothing."""
    method = _method(fixed, masks, step_voxels)
    transform = type(start)(start)
    method.SetInitialTransform(transform, inPlace=True)
    values: list[float] = []
    method.AddCommand(sitk.sitkIterationEvent, lambda: values.append(method.GetMetricValue()))
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        # ITK refuses, for example, scans of which the mask leaves too few voxels.
        log.warning("the last level of the linear registration failed: %s", str(error).splitlines()[-1])
        return None
    moved_mm = _greatest_distance_mm(fixed, start, transform)
    # Lower values are more information. The first one is that of the start.
    if not np.isfinite(values).all() or values[-1] > values[0] or moved_mm > _FURTHEST_MM:
        log.info("last level: no gain in one direction")
        return None
    log.info("last level: information %.4f, before %.4f, moved by up to %.2f mm", -values[-1], -values[0], moved_mm)
    return transform


def _method(fixed: sitk.Image, masks: Sequence[sitk.Image | None], step_voxels: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(torch.get_num_threads())
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / fixed.GetNumberOfPixels()), _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    voxel_mm = min(fixed.GetSpacing())
    method.SetOptimizerAsRegularStepGradientDescent(step_voxels * voxel_mm, _LEAST_STEP_VOXELS * voxel_mm, _ITERATIONS)
    method.SetOptimizerScalesFromPhysicalShift()
    for mask, use in zip(masks, (method.SetMetricFixedMask, method.SetMetricMovingMask), strict=True):
        if mask is not None:
            use(sitk.Cast(mask != 0, sitk.sitkUInt8))
    return method


def _mean(one: LinearTransform, other: LinearTransform, fixed: sitk.Image, stage: Stage) -> LinearTransform:
    """Return the linear transform halfway between two that differ little."""
    points = np.vstack([np.zeros(3), np.eye(3)]).tolist()
    means = np.mean([[transform.TransformPoint(point) for point in points] for transform in (one, other)], axis=0)
    mean = sitk.AffineTransform(3)
    mean.SetMatrix((means[1:] - means[0]).T.flatten().tolist())
    mean.SetTranslation(means[0].tolist())
    return _as_stage(mean, fixed, stage)


def _as_stage(transform: sitk.Transform, scan: sitk.Image, stage: Stage) -> LinearTransform:
    """Return a linear transform with the parameters of the stage, about a scan's centre."""
    centre = scan.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in scan.GetSize()])
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.stack([np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()], axis=1)
    result: LinearTransform
    if stage == "affine":
        result = sitk.AffineTransform(3)
    else:
        result = sitk.VersorRigid3DTransform()
        left, _, right = np.linalg.svd(matrix)
        matrix = left @ np.diag([1, 1, np.sign(np.linalg.det(left @ right))]) @ right
    result.SetCenter(centre)
    result.SetMatrix(matrix.flatten().tolist())
    result.SetTranslation((np.array(transform.TransformPoint(centre)) - centre).tolist())
    return result


def _greatest_distance_mm(fixed: sitk.Image, one: sitk.Transform, other: sitk.Transform) -> float:
    """Compute how far apart two transforms move a corner of the fixed scan, mm."""
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in fixed.GetSize()])).reshape(3, -1).T
    points = [fixed.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners.astype(float)]
    ends = [np.array([transform.TransformPoint(point) for point in points]) for transform in (one, other)]
    return float(np.linalg.norm(ends[0] - ends[1], axis=1).max())
