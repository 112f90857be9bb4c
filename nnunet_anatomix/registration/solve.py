"""Second stage of a registration: descriptors, and the displacement between them."""

from __future__ import annotations

from typing import NamedTuple

import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nnunet_anatomix.registration.descriptors import DescriptorConfig, Scan, comparable_image, describe, descriptors
from nnunet_anatomix.registration.prepare import Problem
from nnunet_anatomix.registration.programs.program import Program
from nnunet_anatomix.registration.solvers.ants import syn_displacement
from nnunet_anatomix.registration.solvers.convexadam import convex_adam
from nnunet_anatomix.registration.solvers.program import program_displacement
from nnunet_anatomix.registration.timing import time_stage
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.common.child import hides_progress_bars
from pretraining.common.finite import require_finite
from pretraining.common.triple import triple
from pretraining.imaging.grids import grid_of_cubes, image_tensor, resample_image, tensor_image


class Solution(NamedTuple):
    """Displacements of the solver."""

    displacement: Tensor
    """(3, X, Y, Z), voxels of ``grid``."""
    inverse: Tensor | None
    """(3, X, Y, Z), voxels of ``grid``; None where the solver computes no inverse."""
    grid: sitk.Image
    """Grid of the displacement: the working grid, or a coarser one where memory is scarce."""
    known: Tensor
    """(X, Y, Z) in {0, 1} on ``grid``."""


def solve(problem: Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> Solution:
    """Compute descriptors and the displacement between them."""
    if problem.config.program is not None:
        solution = _solve_by_program(problem, problem.config.program, scans, seconds)
    elif problem.config.solver == "convexadam":
        solution = _solve_convexadam(problem, scans, seconds, progress)
    elif problem.config.solver == "none":
        nothing = torch.zeros(3, *problem.known.shape)
        solution = Solution(nothing, nothing, problem.grid, problem.known)
    else:
        solution = _solve_ants(problem, scans, seconds, progress)
    require_finite(solution.displacement, "displacement field")
    return solution


def _solve_convexadam(problem: Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> Solution:
    budget, grid, known = problem.budget, problem.grid, problem.known
    fixed, moving = scans
    with time_stage(seconds, "descriptors"):
        described = list(
            descriptors(fixed, moving, budget.descriptors, pool=budget.solver.pool, net=problem.net, progress=progress)
        )
    iterations = sum(budget.solver.iterations)
    with (
        time_stage(seconds, "solver"),
        tqdm(total=iterations, desc="descent", disable=not progress or hides_progress_bars()) as bar,
    ):
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
    return Solution(displacement, None, grid, known)


def _solve_ants(problem: Problem, scans: list[Scan], seconds: dict[str, float], progress: bool) -> Solution:
    config = problem.config
    with time_stage(seconds, "descriptors"):
        fixed, moving = _ants_channels(scans, problem.budget.descriptors, problem.net, progress)
    with time_stage(seconds, "solver"):
        displacement, inverse = syn_displacement(
            fixed,
            moving,
            problem.grid,
            metric="mean_squares" if config.descriptors.feature_weight else "mi",
            config=config.ants,
            fixed_mask=scans[0].known,
            moving_mask=scans[1].known,
        )
    return Solution(displacement, inverse, problem.grid, problem.known)


def _solve_by_program(problem: Problem, program: Program, scans: list[Scan], seconds: dict[str, float]) -> Solution:
    with time_stage(seconds, "solver"):
        displacement, grid = program_displacement(
            comparable_image(scans[0]),
            comparable_image(scans[1]),
            known=(scans[0].known, scans[1].known),
            grid=problem.grid,
            program=program,
        )
    known = problem.known
    if program.size is not None:
        known = image_tensor(resample_image(tensor_image(known, problem.grid), grid, nearest=True))
    return Solution(displacement, None, grid, known)


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
