"""ConvexAdam: a global search on a coarse grid, then descent on finer ones (App. B.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.convex import Beyond, convex_displacement
from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.solvers.local_correlation import LocalCorrelation
from nnunet_anatomix.registration.solvers.refine import Regularization, refine
from nnunet_anatomix.registration.solvers.unfold import unfold
from nnunet_anatomix.registration.warp import identity
from pretraining.common.checks import check_count, check_not_negative
from pretraining.common.errors import InputError
from pretraining.common.triple import triple
from pretraining.imaging.interpolation import interpolate_at

_FACE_MARGIN = 2
"""Distance from a face of the field of view within which descriptors are not compared, voxels. A
MIND-SSC descriptor, which reaches 3 voxels, mostly describes the repeated border there, which lies
elsewhere in the other scan. Between crops, 98 % of a shift is found with 2 as with 3 (89 % with 0);
smaller deformations near the faces are followed better."""


@dataclass(frozen=True, kw_only=True)
class ConvexAdamConfig:
    """Settings of ConvexAdam; the paper searched over the first four (App. A.2)."""

    smoothness: float = 0.7
    """Weight λ of the regularization in the descent."""
    regularization: Regularization = "bending"
    """Penalty of the descent: bending energy plus diffusion; or, as published, diffusion alone, the
    squared differences between neighbours' displacements."""
    grid_spacing: int = 6
    """Spacing of the coarse grid, voxels."""
    reach: int = 2
    """Greatest displacement of the search, voxels of the coarse grid (disp_hw in ConvexAdam)."""
    adam_spacing: int = 1
    """Spacing of the descent's finest grid, voxels."""
    iterations: tuple[int, ...] = (40, 40)
    """Iterations of each level of the descent, coarse to fine. The grid of a level is twice as
    coarse as the next one's; the last one's spacing is ``adam_spacing``. Published: (80,)."""
    symmetric: bool = True
    """Search in both directions and enforce inverse consistency."""
    unfold: bool = True
    """Smooth the displacement where it folds, until it folds nowhere. Published: False."""
    dissimilarity: Literal["difference", "correlation"] = "difference"
    """Data term of the descent: squared difference of descriptors, or their local correlation,
    which is more accurate for some pairs and 10 to 15 times as slow."""
    beyond: Beyond = "border"
    """Values beyond the field of view: border repeats it, and the descent compares no descriptors
    that reach beyond; zeros, as in the convexadam package, holds the displacement at the faces."""

    def __post_init__(self) -> None:
        check_count(grid_spacing=self.grid_spacing, reach=self.reach, adam_spacing=self.adam_spacing)
        check_not_negative(iterations=self.iterations, smoothness=self.smoothness)
        if not self.iterations:
            raise InputError("iterations: expected a number for every level of the descent, found none")

    @property
    def level_spacings(self) -> tuple[int, ...]:
        """Spacing of the grid of each level, voxels, coarse to fine."""
        return tuple(self.adam_spacing * 2**level for level in reversed(range(len(self.iterations))))

    @property
    def least_side(self) -> int:
        """Shortest side of the full grid that the settings can work on, voxels."""
        return max(self.grid_spacing, self.level_spacings[0])

    def without_finest_level(self) -> ConvexAdamConfig:
        """Return settings that end on a grid twice as coarse, with as many iterations in all."""
        iterations = (*self.iterations[:-2], sum(self.iterations[-2:]))
        return replace(self, adam_spacing=2 * self.adam_spacing, iterations=iterations)

    @property
    def pool(self) -> int:
        """Side of the cubes over which descriptors may be averaged beforehand, voxels."""
        return gcd(self.grid_spacing, self.adam_spacing)


@torch.no_grad()
def convex_adam(
    fixed: Tensor,
    moving: Tensor,
    shape: tuple[int, int, int],
    config: ConvexAdamConfig,
    *,
    fixed_known: Tensor | None = None,
    moving_known: Tensor | None = None,
    knots: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Register descriptors with ConvexAdam.

    Args:
        fixed: (C, X', Y', Z') float32, averaged over cubes of ``config.pool`` voxels.
        moving: (C, X', Y', Z') float32, averaged likewise.
        shape: (X, Y, Z), voxels of the full grid, at least ``config.least_side`` each.
        config: Settings.
        fixed_known: (X, Y, Z) in {0, 1}, 1 where the fixed scan is known. Default: everywhere.
        moving_known: (X, Y, Z) in {0, 1}, 1 where the moving scan is known. Default: everywhere.
        knots: Return the displacement on the descent's finest grid; between its knots it is linear.
        progress: Function called after every iteration of the descent.

    Returns:
        (3, X, Y, Z) float32, voxels of the full grid, or of the grid of cubes of
        ``config.adam_spacing`` voxels (:func:`pretraining.imaging.grids.grid_of_cubes`), with the
        convention of :mod:`nnunet_anatomix.registration.warp`.

    References:
        Siebert, Hansen & Heinrich, Fast 3D Registration with Accurate Optimisation and Little
        Learning for Learn2Reg 2021, arXiv:2112.03053.
    """
    known = {"fixed_known": fixed_known, "moving_known": moving_known}
    found = search_stage(fixed, moving, config, **known)
    # Keep no reference here, so that the descent can free its input: large grids need the memory.
    described = [moving, fixed]
    del fixed, moving
    return descent_stage(
        described.pop(), described.pop(), found, shape, config, **known, knots=knots, progress=progress
    )


@torch.no_grad()
def search_stage(
    fixed: Tensor,
    moving: Tensor,
    config: ConvexAdamConfig,
    *,
    fixed_known: Tensor | None = None,
    moving_known: Tensor | None = None,
) -> Tensor:
    """Run the global search of :func:`convex_adam`.

    Args:
        fixed: Fixed descriptors, as in :func:`convex_adam`.
        moving: Moving descriptors.
        config: Settings, of which the result depends on ``grid_spacing``, ``reach``, ``symmetric``,
            ``beyond`` and, through the descriptors, ``pool``.
        fixed_known: Mask of the fixed scan, as in :func:`convex_adam`.
        moving_known: Mask of the moving scan.

    Returns:
        (3, X // s, Y // s, Z // s) float32, s the ``grid_spacing``, voxels of that coarse grid.
    """
    fixed, moving = (_pool_volume(descriptors, config.grid_spacing, config.pool) for descriptors in (fixed, moving))
    fixed_weight, moving_weight = (_pool_mask(mask, config.grid_spacing) for mask in (fixed_known, moving_known))
    return convex_displacement(
        fixed,
        moving,
        reach=config.reach,
        symmetric=config.symmetric,
        fixed_weight=fixed_weight,
        moving_weight=moving_weight,
        beyond=config.beyond,
    )


def descent_stage(
    fixed: Tensor,
    moving: Tensor,
    found: Tensor,
    shape: tuple[int, int, int],
    config: ConvexAdamConfig,
    *,
    fixed_known: Tensor | None = None,
    moving_known: Tensor | None = None,
    knots: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Run the descent of :func:`convex_adam`.

    Args:
        fixed: Fixed descriptors, as in :func:`convex_adam`.
        moving: Moving descriptors.
        found: Displacement from :func:`search_stage`.
        shape: Shape of the full grid, as in :func:`convex_adam`.
        config: Settings.
        fixed_known: Mask of the fixed scan, as in :func:`convex_adam`.
        moving_known: Mask of the moving scan.
        knots: Return the displacement on the descent's finest grid.
        progress: Function called after every iteration.

    Returns:
        Displacement, as from :func:`convex_adam`.
    """
    spacing = config.grid_spacing
    for level, (iterations, level_spacing) in enumerate(zip(config.iterations, config.level_spacings, strict=True)):
        dissimilarity = _dissimilarity(fixed, moving, level_spacing, config, fixed_known, moving_known)
        if level + 1 == len(config.iterations):
            del fixed, moving
        found = refine(
            dissimilarity,
            regrid(found, spacing, level_spacing, triple(dissimilarity.shape)),
            smoothness=config.smoothness,
            regularization=config.regularization,
            iterations=iterations,
            beyond=config.beyond,
            progress=progress,
        )
        del dissimilarity
        spacing = level_spacing
    if config.unfold:
        found = unfold(found)
    if knots:
        return _pad_to(found, [-(-side // spacing) for side in shape])
    return on_full_grid(found, spacing, shape)


def _dissimilarity(
    fixed: Tensor,
    moving: Tensor,
    spacing: int,
    config: ConvexAdamConfig,
    fixed_known: Tensor | None,
    moving_known: Tensor | None,
) -> Dissimilarity | LocalCorrelation:
    """Build the data term of one level of the descent, on cubes of ``spacing`` voxels."""
    fixed, moving = (_pool_volume(descriptors, spacing, config.pool) for descriptors in (fixed, moving))
    fixed_weight, moving_weight = (_pool_mask(mask, spacing) for mask in (fixed_known, moving_known))
    # The margin does not change the number of voxels, and thus not the balance with the smoothness.
    voxels = prod(fixed.shape[1:]) if fixed_weight is None else fixed_weight.sum().item()
    if config.beyond == "border":
        inner = _inner_share(fixed.shape[1:], spacing, fixed.device)
        fixed_weight, moving_weight = (
            inner if weight is None else inner * weight for weight in (fixed_weight, moving_weight)
        )
    term = LocalCorrelation if config.dissimilarity == "correlation" else Dissimilarity
    return term(fixed, moving, fixed_weight, moving_weight, voxels=voxels, beyond=config.beyond)


def _inner_share(shape: Sequence[int], spacing: int, device: torch.device) -> Tensor:
    """Compute the share of each cube that is away from the faces; axes lose at most a quarter.

    Args:
        shape: Number of cubes along each axis.
        spacing: Side of the cubes, voxels.
        device: Device of the result.

    Returns:
        ``shape``, in [0, 1].
    """
    sides = [cubes * spacing for cubes in shape]
    inner = torch.zeros(sides, device=device)
    margins = [min(_FACE_MARGIN, side // 8) for side in sides]
    inner[tuple(slice(margin, side - margin) for margin, side in zip(margins, sides, strict=True))] = 1
    return _pool_volume(inner[None], spacing)[0]


def _pool_volume(volume: Tensor, spacing: int, current: int = 1) -> Tensor:
    """Average a (C, X, Y, Z) volume from its current to a larger spacing, voxels."""
    return volume if spacing == current else functional.avg_pool3d(volume, spacing // current)


def _pool_mask(mask: Tensor | None, spacing: int) -> Tensor | None:
    return None if mask is None else _pool_volume(mask[None].float(), spacing)[0]


def regrid(displacement: Tensor, spacing: int, new_spacing: int, shape: tuple[int, int, int]) -> Tensor:
    """Resample a displacement between grids of cubes over one volume.

    Args:
        displacement: (3, X, Y, Z), voxels of the old grid.
        spacing: Side of the old grid's cubes.
        new_spacing: Side of the new grid's cubes, in the same unit.
        shape: Shape of the new grid.

    Returns:
        ``(3, *shape)``, voxels of the new grid.
    """
    centres = (identity(shape, displacement.device) + 0.5) * (new_spacing / spacing) - 0.5
    return interpolate_at(displacement, centres, beyond="border") * (spacing / new_spacing)


def on_full_grid(displacement: Tensor, spacing: int, shape: tuple[int, int, int]) -> Tensor:
    """Resample a displacement from cubes to voxels, constant beyond the outermost cube centres."""
    if spacing == 1:
        return displacement
    inside = functional.interpolate(
        displacement[None] * spacing, scale_factor=spacing, mode="trilinear", align_corners=False
    )
    return _pad_to(inside[0], shape)


def _pad_to(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """Pad to ``(3, *shape)`` by repeating the last voxels."""
    margins = [side - covered for side, covered in zip(shape, displacement.shape[1:], strict=True)]
    if not any(margins):
        return displacement
    return functional.pad(
        displacement[None], [amount for margin in reversed(margins) for amount in (0, margin)], mode="replicate"
    )[0]
