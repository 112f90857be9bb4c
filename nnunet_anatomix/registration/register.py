"""Register two scans: start, descriptors, solver, transform (Sec. 4.1)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, describe, descriptors
from nnunet_anatomix.registration.memory import Budget, fit_to_memory
from nnunet_anatomix.registration.solvers.ants import syn_displacement
from nnunet_anatomix.registration.solvers.convexadam import convex_adam
from nnunet_anatomix.registration.start.initial import Start, best_start, file_start, header_start
from nnunet_anatomix.registration.warp import displacement_of, invert, itk_transform
from pretraining.backbone.external import ExternalNetwork
from pretraining.backbone.feature_network import FeatureNetwork, FeatureWeights
from pretraining.backbone.inference import Clip
from pretraining.backbone.inference_memory import available_bytes
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import find_weights, load_weights
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite
from pretraining.common.triple import triple
from pretraining.imaging.grids import coverage, grid_of_cubes, image_tensor, near_isotropic_grid, resample_image
from pretraining.imaging.limits import check_window
from pretraining.imaging.scans import validate_labels, validate_scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Result of a registration; transforms map points in mm, as ITK's resamplers expect.

    Attributes:
        moved: Moving scan on the fixed grid.
        forward: Transform from points of the fixed scan to points of the moving scan.
        inverse: Transform from points of the moving scan to points of the fixed scan.
        start: Initial transform; ``forward`` applies the displacement first, then the start.
        displacement, inverse_displacement: (3, X, Y, Z), voxels of ``grid``, without the start.
        known: (X, Y, Z) in {0, 1} on ``grid``, 1 where both scans are known under the start.
        grid: Image on the grid of the displacements, over the fixed scan's box: the working
            grid, or the solver's coarser grid where memory is scarce.
        fixed, moving: Scans after validation.
        seconds: Stage → duration, s.
        settings: Settings after they were reduced to fit into memory.
    """

    moved: sitk.Image
    forward: sitk.Transform
    inverse: sitk.Transform
    start: Start
    displacement: Tensor
    inverse_displacement: Tensor
    known: Tensor
    grid: sitk.Image
    fixed: sitk.Image
    moving: sitk.Image
    seconds: dict[str, float]
    settings: dict[str, object]

    def moved_labels(self, labels: sitk.Image) -> sitk.Image:
        """Resample labels of the moving scan to the fixed grid, by nearest neighbour."""
        return resample_image(labels, self.fixed, self.forward, nearest=True)


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    config: RegistrationConfig | None = None,
    weights: FeatureWeights | UNet | ExternalNetwork | None = None,
    fixed_mask: sitk.Image | None = None,
    moving_mask: sitk.Image | None = None,
    fixed_clip: Clip | None = None,
    moving_clip: Clip | None = None,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Registration:
    """Register a moving scan to a fixed one of any modality, grid and orientation.

    Args:
        fixed: Fixed scan, three-dimensional, one channel.
        moving: Moving scan, three-dimensional, one channel.
        config: Settings. Default: :class:`RegistrationConfig`, which suits most pairs.
        weights: Feature network, or its weights. Default: the bundled weights.
        fixed_mask: Mask of the fixed scan, above 0 where it counts. Default: everywhere.
        moving_mask: Mask of the moving scan, above 0 where it counts. Default: everywhere.
        fixed_clip: Intensity range to which the fixed scan is clipped before it is compared, e.g.
            (-450, 450) HU. Default: no clipping.
        moving_clip: Intensity range of the moving scan, likewise.
        memory: Memory above PyTorch's own, bytes. Default: most of what is free.
        device: Device of features and displacements.
        progress: Show progress bars.

    Returns:
        The moved scan, the transforms and the settings in effect.

    Raises:
        InputError: If a scan cannot be registered (see :mod:`pretraining.imaging.scans`), the scans
            do not overlap, or the memory does not suffice.
        NotFinite: If descriptors or solver compute NaN or infinity.
    """
    config = config or RegistrationConfig()
    check_window(fixed_clip, "clip of the fixed scan")
    check_window(moving_clip, "clip of the moving scan")
    seconds: dict[str, float] = {}
    problem, scans = _prepare(
        validate_scan(fixed, "fixed"),
        validate_scan(moving, "moving"),
        config,
        net=_load_network(weights, config, torch.device(device)),
        masks=(fixed_mask, moving_mask),
        clips=(fixed_clip, moving_clip),
        memory=available_bytes(torch.device("cpu")) if memory is None else memory,
        device=torch.device(device),
        seconds=seconds,
    )
    solution = _solve(problem, scans, seconds, progress)
    del scans  # the transforms need their memory
    return _assemble(problem, solution, seconds)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Input of the solver, except for the resampled scans."""

    fixed: sitk.Image
    moving: sitk.Image
    config: RegistrationConfig
    budget: Budget
    net: FeatureNetwork | None
    clips: tuple[Clip | None, Clip | None]
    grid: sitk.Image
    """Working grid."""
    start: Start
    known: Tensor
    """(X, Y, Z) in {0, 1} on the working grid, on the CPU: 1 where both scans are known."""


class _Solution(NamedTuple):
    """Displacements of the solver."""

    displacement: Tensor
    """(3, X, Y, Z), voxels of ``grid``."""
    inverse: Tensor | None
    """(3, X, Y, Z), voxels of ``grid``; None where the solver computes no inverse."""
    grid: sitk.Image
    """Grid of the displacement: the working grid, or a coarser one where memory is scarce."""
    known: Tensor
    """(X, Y, Z) in {0, 1} on ``grid``."""


def _prepare(
    fixed: sitk.Image,
    moving: sitk.Image,
    config: RegistrationConfig,
    *,
    net: FeatureNetwork | None,
    masks: tuple[sitk.Image | None, sitk.Image | None],
    clips: tuple[Clip | None, Clip | None],
    memory: int,
    device: torch.device,
    seconds: dict[str, float],
) -> tuple[_Problem, list[Scan]]:
    """Fit the settings to the memory, find the start and resample both scans to the grid."""
    roles = ((masks[0], fixed, "fixed mask"), (masks[1], moving, "moving mask"))
    fixed_mask, moving_mask = (
        None if mask is None else validate_labels(mask, scan, role) for mask, scan, role in roles
    )
    masks = (fixed_mask, moving_mask)
    images = (fixed, moving, fixed, *(mask for mask in masks if mask is not None))
    held_bytes = sum(image.GetNumberOfPixels() * 4 for image in images)
    full_grid = near_isotropic_grid(fixed, spacing_mm=config.spacing_mm)
    budget = fit_to_memory(full_grid.GetSize(), held_bytes, config.descriptors, config.convexadam, net, memory)
    grid = near_isotropic_grid(fixed, spacing_mm=config.spacing_mm, at_most_voxels=budget.voxels)
    with _time_stage(seconds, "start"):
        start = _find_start(fixed, moving, config, net, clips, masks)
    with _time_stage(seconds, "resampling"):
        scans = _resample_scans(fixed, moving, grid, start.transform, masks, clips, device)
    shape, least = tuple(scans[0].image.shape), budget.solver.grid_spacing
    if min(shape) < least:
        raise InputError(
            f"the fixed scan has {shape} voxels on the working grid, expected at least {least} along every axis; "
            "set a finer spacing"
        )
    known = torch.ones_like(scans[0].image)
    for scan in scans:
        known = known if scan.known is None else known * scan.known
    if not known.any():
        raise InputError(
            "the masks of the fixed and moving scan do not overlap under the start; check the masks, or omit them"
        )
    problem = _Problem(
        fixed=fixed,
        moving=moving,
        config=config,
        budget=budget,
        net=net,
        clips=clips,
        grid=grid,
        start=start,
        known=known.cpu(),
    )
    return problem, scans


def _solve(problem: _Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> _Solution:
    """Compute descriptors and the displacement between them."""
    if problem.config.solver == "convexadam":
        solution = _solve_convexadam(problem, scans, seconds, progress)
    else:
        solution = _solve_ants(problem, scans, seconds, progress)
    require_finite(solution.displacement, "displacement field")
    return solution


def _solve_convexadam(problem: _Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> _Solution:
    budget, grid, known = problem.budget, problem.grid, problem.known
    fixed, moving = scans
    with _time_stage(seconds, "descriptors"):
        described = list(
            descriptors(fixed, moving, budget.descriptors, pool=budget.solver.pool, net=problem.net, progress=progress)
        )
    iterations = budget.solver.iterations
    with _time_stage(seconds, "solver"), tqdm(total=iterations, desc="descent", disable=not progress) as bar:
        displacement = convex_adam(
            described.pop(0),  # removed from the list, so that the solver can free them
            described.pop(0),
            triple(known.shape),
            budget.solver,
            fixed_known=fixed.known,
            moving_known=moving.known,
            knots=budget.coarse_fields,
            progress=bar.update,
        ).cpu()
    if budget.coarse_fields:
        grid = grid_of_cubes(grid, budget.solver.adam_spacing)
        known = functional.avg_pool3d(known[None], budget.solver.adam_spacing, ceil_mode=True)[0].round()
    return _Solution(displacement, None, grid, known)


def _solve_ants(problem: _Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> _Solution:
    config = problem.config
    with _time_stage(seconds, "descriptors"):
        fixed, moving = _ants_channels(scans, problem.budget.descriptors, problem.net, progress)
    with _time_stage(seconds, "solver"):
        displacement, inverse = syn_displacement(
            fixed,
            moving,
            problem.grid,
            metric="mean_squares" if config.descriptors.feature_weight else "mi",
            config=config.ants,
            fixed_mask=scans[0].known,
            moving_mask=scans[1].known,
        )
    return _Solution(displacement, inverse, problem.grid, problem.known)


def _assemble(problem: _Problem, solution: _Solution, seconds: dict[str, float]) -> Registration:
    """Turn the displacement into transforms both ways, and apply the forward one."""
    config, budget, start = problem.config, problem.budget, problem.start
    displacement, inverse, grid, known = solution
    with _time_stage(seconds, "transforms"):
        inverse = invert(displacement) if inverse is None else inverse
        require_finite(inverse, "inverse displacement field")
        forward = sitk.CompositeTransform([start.transform, itk_transform(displacement, grid)])
        backward = _inverse_transform(start, displacement, inverse, grid)
        moved = resample_image(problem.moving, problem.fixed, forward)
    return Registration(
        moved=moved,
        forward=forward,
        inverse=backward,
        start=start,
        displacement=displacement,
        inverse_displacement=inverse,
        known=known,
        grid=grid,
        fixed=problem.fixed,
        moving=problem.moving,
        seconds=seconds,
        settings={
            "method": config.method,
            "init": config.init,
            "affine": config.stage,
            "descriptors": budget.descriptors,
            "solver": budget.solver if config.solver == "convexadam" else config.ants,
            "clip": problem.clips,
        },
    )


def _load_network(
    weights: FeatureWeights | UNet | ExternalNetwork | None, config: RegistrationConfig, device: torch.device
) -> FeatureNetwork | None:
    if not config.descriptors.feature_weight:
        return None
    if weights is None:
        weights = load_weights(find_weights())
    net = weights if isinstance(weights, UNet | ExternalNetwork) else weights.network()
    return net.to(device).eval()


def _find_start(
    fixed: sitk.Image,
    moving: sitk.Image,
    config: RegistrationConfig,
    net: FeatureNetwork | None,
    clips: tuple,
    masks: tuple,
) -> Start:
    options: dict[str, Any] = {"net": net, "stage": config.stage, "clips": clips, "masks": masks}
    if config.init == "auto":
        return best_start(fixed, moving, config.descriptors, **options)
    given = header_start(fixed, moving) if config.init == "none" else file_start(Path(config.init), fixed, moving)
    if config.stage == "none":
        return given
    if not given.transform.IsLinear():
        raise InputError(
            "the initial transform is not linear, expected a linear one for a rigid or affine stage; use --affine none"
        )
    return best_start(fixed, moving, config.descriptors, given=given, **options)


def _resample_scans(
    fixed: sitk.Image,
    moving: sitk.Image,
    grid: sitk.Image,
    start: sitk.Transform,
    masks: tuple,
    clips: tuple,
    device: torch.device,
) -> list[Scan]:
    scans = []
    for scan, transform, mask, clip in zip((fixed, moving), (sitk.Transform(), start), masks, clips, strict=True):
        known = coverage(scan, grid, transform)
        if mask is not None:
            known *= image_tensor(resample_image(sitk.Cast(mask != 0, sitk.sitkUInt8), grid, transform, nearest=True))
        if not known.any():
            raise InputError("a mask is empty where the scans overlap; check the masks, or omit them")
        image = image_tensor(resample_image(scan, grid, transform)).to(device)
        scans.append(Scan(image=image, known=None if bool(known.all()) else known.to(device), clip=clip))
    return scans


def _ants_channels(
    scans: list[Scan], config: DescriptorConfig, net: FeatureNetwork | None, progress: bool
) -> list[Tensor]:
    """Return what ANTs compares: feature channels at full resolution, or the scans themselves."""
    if not config.feature_weight:
        return [(scan.image.clamp(*scan.clip) if scan.clip else scan.image)[None] for scan in scans]
    features = DescriptorConfig(
        mind=False, feature_weight=1.0, side=config.side, overlap=config.overlap, bf16=config.bf16
    )
    return [describe(scan, features, pool=1, net=net, progress=progress) for scan in scans]


def _inverse_transform(start: Start, displacement: Tensor, inverse: Tensor, grid: sitk.Image) -> sitk.Transform:
    """Invert displacement and start, jointly if the start is not linear."""
    if start.transform.IsLinear():
        return sitk.CompositeTransform([itk_transform(inverse, grid), start.transform.GetInverse()])
    total = displacement_of(sitk.CompositeTransform([start.transform, itk_transform(displacement, grid)]), grid)
    return itk_transform(invert(total), grid)


@contextmanager
def _time_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - begin, 2)
