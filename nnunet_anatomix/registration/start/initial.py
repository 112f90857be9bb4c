"""Initial transforms: from a file, or the best of several by agreement of descriptors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, describe
from nnunet_anatomix.registration.start.affine import (
    NO_OVERLAP,
    Descent,
    DescribedScan,
    Stage,
    agreement,
    greatest_distance,
    halve,
    matching_translation,
    optimize,
)
from nnunet_anatomix.registration.transforms import read_transform
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference import Clip
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite
from pretraining.imaging.grids import coverage, grid_of_cubes, image_tensor, near_isotropic_grid, resample_image

log = logging.getLogger(__name__)

_VOXELS = 96**3
"""Default maximum size of the grids on which starts are compared, voxels."""
_POOL = 2
_HEADER_BONUS = 0.02
"""Margin of agreement by which another start must beat the headers."""
_COARSE = Descent(iterations=40, rate=0.5)
"""Descent at half the resolution."""
_FINE = Descent(iterations=20, rate=0.25)
"""Descent at full resolution, which begins about a voxel from its end."""
_LEAST_SIDE = 4
"""Shortest side of a grid at half the resolution, voxels."""
_FINALISTS = 2
"""Number of starts that are optimized further, after all of them were rigidly."""
_EQUAL_VOXELS = 0.5
"""Greatest distance of the corners under two starts that are optimized once, voxels."""
_SAME_VOXELS = 2.0
"""Greatest distance of the corners under two optimized starts that count as one, voxels."""
_MIN_COVERAGE = 0.02
"""Minimum share of the fixed grid that the moving scan covers."""

Scored = tuple[float, sitk.Transform]
"""Agreement under a transform, and the transform."""
Described = tuple[DescribedScan, DescribedScan]
"""Fixed and moving scan."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """An initial transform.

    Attributes:
        name: ``header``, ``centres``, ``mass``, ``search`` or ``file``.
        transform: Transform from points of the fixed scan to points of the moving scan, mm.
        agreement: See :func:`nnunet_anatomix.registration.start.affine.agreement`; NaN if it was
            not computed.
        rivals: Name → agreement of all starts that were compared; after an alignment, at half the
            resolution.
    """

    name: str
    transform: sitk.Transform
    agreement: float = float("nan")
    rivals: dict[str, float]


def header_start(fixed: sitk.Image, moving: sitk.Image) -> Start:
    """Return the identity: the scans as their headers place them.

    Args:
        fixed: Fixed scan.
        moving: Moving scan.

    Returns:
        The start.

    Raises:
        InputError: If the scans do not overlap.
    """
    return _require_overlap(fixed, moving, Start(name="header", transform=sitk.AffineTransform(3), rivals={}))


def file_start(path: Path, fixed: sitk.Image, moving: sitk.Image) -> Start:
    """Read an initial transform from a file.

    Args:
        path: Transform of ITK, ANTs, FSL, FreeSurfer or elastix, or a displacement field, see
            :func:`~nnunet_anatomix.registration.transforms.read_transform`.
        fixed: Fixed scan.
        moving: Moving scan.

    Returns:
        The start.

    Raises:
        InputError: If the file cannot be read, is not such a transform, or the scans do not overlap
            under it.
    """
    transform = read_transform(path, "initial transform", "pass another file, or omit --init", (fixed, moving))
    return _require_overlap(fixed, moving, Start(name="file", transform=transform, rivals={}))


def best_start(
    fixed: sitk.Image,
    moving: sitk.Image,
    config: DescriptorConfig,
    *,
    net: FeatureNetwork | None,
    stage: Stage = "affine",
    clips: Sequence[Clip | None] = (None, None),
    masks: Sequence[sitk.Image | None] = (None, None),
    given: Start | None = None,
    voxels: int = _VOXELS,
) -> Start:
    """Align the scans linearly from several starts, and return the one that agrees best.

    Args:
        fixed: Fixed scan, validated.
        moving: Moving scan, validated.
        config: Descriptors by which starts are compared.
        net: Network, as in :func:`nnunet_anatomix.registration.descriptors.describe`.
        stage: Linear alignment of each start.
        clips: Intensity ranges of the fixed and moving scan.
        masks: Masks of the fixed and moving scan.
        given: Only start to align from. Default: headers, centres of the images, centres of mass
            and the best translation.
        voxels: Maximum size of the grids on which starts are compared, voxels.

    Returns:
        The aligned start.

    Raises:
        InputError: If the scans do not overlap under any start.
    """
    grids = [
        near_isotropic_grid(scan, spacing_mm=min(scan.GetSpacing()), at_most_voxels=voxels) for scan in (fixed, moving)
    ]
    spacing = max(grid.GetSpacing()[0] for grid in grids)
    described = (
        _describe_on_grid(fixed, _bounding_grid(fixed, fixed, spacing), config, net, clips[0], masks[0]),
        _describe_on_grid(moving, _bounding_grid(moving, fixed, spacing), config, net, clips[1], masks[1]),
    )
    coarse = described
    if stage != "none" and min(described[0].known.shape) >= 2 * _LEAST_SIDE:
        coarse = (halve(described[0]), halve(described[1]))
    starts = {given.name: given.transform} if given else _candidates(fixed, moving, *coarse)
    found = {name: (agreement(*coarse, transform), transform) for name, transform in starts.items()}
    if stage != "none":
        found |= _aligned({name: scored for name, scored in found.items() if scored[0] > NO_OVERLAP}, coarse, stage)
    require_finite(torch.tensor([score for score, _ in found.values()]), "agreement of the scans")
    rivals = {name: round(score, 4) for name, (score, _) in found.items()}
    name = max(found, key=lambda name: _rank(name, found[name][0]))
    score, transform = found[name]
    if stage != "none" and score > NO_OVERLAP:
        fine = optimize(*described, transform, _FINE, affine=stage == "affine")
        score, transform = _better((agreement(*described, transform), transform), fine, described)
    if score <= NO_OVERLAP:
        raise InputError(
            "under no start do the scans overlap by a quarter of the smaller one; pass a transform with --init FILE"
        )
    log.info(
        "start: %s, agreement %.3f (%s)", name, score, ", ".join(f"{key} {value:.3f}" for key, value in rivals.items())
    )
    return Start(name=name, transform=transform, agreement=score, rivals=rivals)


def _aligned(starts: dict[str, Scored], scans: Described, stage: Stage) -> dict[str, Scored]:
    """Optimize all starts rigidly; for an affine stage, the best ones by affine transforms too.

    Args:
        starts: Name → start that lets the scans overlap.
        scans: Scans at half the resolution.
        stage: ``rigid`` or ``affine``.

    Returns:
        Name → the start, or the optimized one if it agrees better.
    """
    optimized: dict[str, sitk.Transform] = {}
    for name, (_, transform) in starts.items():
        equal = [other for other in optimized if greatest_distance(*scans, transform, starts[other][1]) < _EQUAL_VOXELS]
        optimized[name] = optimized[equal[0]] if equal else optimize(*scans, transform, _COARSE, affine=False)
    found = {name: _better(scored, optimized[name], scans) for name, scored in starts.items()}
    if stage == "affine":
        for name in _finalists({name: (found[name][0], optimized[name]) for name in starts}, scans):
            affine = optimize(*scans, optimized[name], _COARSE, affine=True)
            found[name] = _better(found[name], affine, scans)
    return found


def _better(so_far: Scored, transform: sitk.Transform, scans: Described) -> Scored:
    """Return the transform that agrees better, with its agreement."""
    score = agreement(*scans, transform)
    return (score, transform) if score > so_far[0] else so_far


def _rank(name: str, score: float) -> float:
    return score + (_HEADER_BONUS if name == "header" else 0)


def _finalists(found: dict[str, Scored], scans: Described) -> list[str]:
    """Choose the best starts that differ, at most :data:`_FINALISTS`."""
    chosen: list[str] = []
    for name in sorted(found, key=lambda name: _rank(name, found[name][0]), reverse=True):
        distances = [greatest_distance(*scans, found[name][1], found[other][1]) for other in chosen]
        if len(chosen) < _FINALISTS and all(distance > _SAME_VOXELS for distance in distances):
            chosen.append(name)
    return chosen


def _candidates(
    fixed: sitk.Image, moving: sitk.Image, fixed_described: DescribedScan, moving_described: DescribedScan
) -> dict[str, sitk.Transform]:
    """Return the starts to compare, name → transform."""
    by_centres, by_mass = (_translation(middle(fixed), middle(moving)) for middle in (_centre, _mass_centre))
    return {
        "header": sitk.AffineTransform(3),
        "centres": by_centres,
        "mass": by_mass,
        "search": matching_translation(fixed_described, moving_described),
    }


def _describe_on_grid(
    scan: sitk.Image,
    grid: sitk.Image,
    config: DescriptorConfig,
    net: FeatureNetwork | None,
    clip: Clip | None,
    mask: sitk.Image | None,
) -> DescribedScan:
    known = coverage(scan, grid)
    if mask is not None:
        known *= image_tensor(resample_image(mask != 0, grid, nearest=True))
    device = next(net.parameters()).device if net else torch.device("cpu")
    known = known.to(device)
    image = image_tensor(resample_image(scan, grid)).to(device)
    descriptors = describe(Scan(image=image, known=known, clip=clip), config, pool=_POOL, net=net)
    return DescribedScan(
        descriptors=descriptors,
        known=functional.avg_pool3d(known[None], _POOL)[0],
        grid=grid_of_cubes(grid, _POOL, whole_only=True),
    )


def _bounding_grid(scan: sitk.Image, axes: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Return a grid around one scan, along the axes of another."""
    directions = np.array(axes.GetDirection()).reshape(3, 3)
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in scan.GetSize()])).reshape(3, -1).T
    along = (
        np.array([scan.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners.astype(float)])
        @ directions
    )
    low, high = along.min(0), along.max(0)
    sides = np.maximum(np.ceil((high - low) / spacing_mm).astype(int) + 1, 2 * _POOL)
    grid = sitk.Image(sides.tolist(), sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetDirection(axes.GetDirection())
    grid.SetOrigin((directions @ low).tolist())
    return grid


def _require_overlap(fixed: sitk.Image, moving: sitk.Image, start: Start) -> Start:
    grid = near_isotropic_grid(fixed, spacing_mm=min(fixed.GetSpacing()), at_most_voxels=32**3)
    share = coverage(moving, grid, start.transform).mean().item()
    if share < _MIN_COVERAGE:
        how = "as their headers place them" if start.name == "header" else "after the initial transform"
        raise InputError(
            f"fixed and moving do not overlap {how}: the moving scan covers {100 * share:.1f} % of the fixed one; "
            "use --init auto, or pass a transform with --init FILE"
        )
    return start


def _translation(fixed_point: np.ndarray, moving_point: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetTranslation((moving_point - fixed_point).tolist())
    return transform


def _centre(scan: sitk.Image) -> np.ndarray:
    return np.array(scan.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in scan.GetSize()]))


def _mass_centre(scan: sitk.Image) -> np.ndarray:
    values = image_tensor(scan)
    mass: Tensor = values - values.min()
    profiles = [mass.sum([axis for axis in range(3) if axis != own]) for own in range(3)]
    centre = [((torch.arange(len(profile)) * profile).sum() / profile.sum()).item() for profile in profiles]
    return np.array(scan.TransformContinuousIndexToPhysicalPoint(centre))
