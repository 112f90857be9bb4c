"""ConvexAdam: a global search on a coarse grid, then a descent on a finer one, on any descriptors (App. B.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.convex import convex_displacement
from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.solvers.refine import refine
from nnunet_anatomix.registration.warp import identity
from pretraining.common.checks import check_count, check_not_negative
from pretraining.common.triple import triple
from pretraining.imaging.interpolation import interpolate_at


@dataclass(frozen=True, kw_only=True)
class ConvexAdamConfig:
    """The solver's settings; the paper searched over the first four (App. A.2)."""

    smoothness: float = 1.25
    """Weight λ of the squared differences between neighbours' displacements in the descent."""
    grid_spacing: int = 6
    """Of the coarse grid, voxels."""
    reach: int = 2
    """Greatest displacement of the search, voxels of the coarse grid (``disp_hw``)."""
    adam_spacing: int = 2
    """Of the descent's grid, voxels."""
    iterations: int = 80
    """Of the descent."""
    symmetric: bool = True
    """Whether the search goes both ways and keeps what both agree on (inverse consistency)."""
    beyond: Literal["border", "zeros"] = "border"
    """What the descent finds beyond the grid: its border goes on, or ``zeros`` as in the authors'
    program.
    """

    def __post_init__(self) -> None:
        check_count(grid_spacing=self.grid_spacing, reach=self.reach, adam_spacing=self.adam_spacing)
        check_not_negative(iterations=self.iterations, smoothness=self.smoothness)

    @property
    def pool(self) -> int:
        """Side of the cubes that descriptors may be averaged over beforehand."""
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
    """Align descriptors.

    Args:
        fixed, moving: (C, X', Y', Z') float32, averaged over cubes of ``config.pool`` voxels.
        shape: (X, Y, Z), voxels of the full grid, at least ``config.grid_spacing`` each.
        config: The settings.
        fixed_known, moving_known: (X, Y, Z) in {0, 1}, where something is known of each scan; None
            for everywhere.
        knots: Whether to return the displacement on the descent's grid, as it was found: between
            its knots, the full one is linear.
        progress: Called after every iteration of the descent.

    Returns:
        (3, X, Y, Z) float32, voxels of the full grid, or of the grid of cubes of
        ``config.adam_spacing`` voxels (:func:`pretraining.imaging.grids.grid_of_cubes`); pulls, as
        in :mod:`nnunet_anatomix.registration.warp`.

    References:
        Siebert, Hansen & Heinrich, Fast 3D Registration with Accurate Optimisation and Little
        Learning for Learn2Reg 2021, arXiv:2112.03053.
    """
    known = {"fixed_known": fixed_known, "moving_known": moving_known}
    found = search_stage(fixed, moving, config, **known)
    # Handed over, not kept: large grids want the memory of what is done with.
    handed_over = [descent_dissimilarity(fixed, moving, config, **known)]
    del fixed, moving
    return descent_stage(handed_over.pop(), found, shape, config, knots=knots, progress=progress)


@torch.no_grad()
def search_stage(
    fixed: Tensor,
    moving: Tensor,
    config: ConvexAdamConfig,
    *,
    fixed_known: Tensor | None = None,
    moving_known: Tensor | None = None,
) -> Tensor:
    """The global search of :func:`convex_adam`, which takes the same arguments.

    Returns:
        (3, X // s, Y // s, Z // s) float32, s the ``grid_spacing``, voxels of that coarse grid. Of
        the settings it depends on ``grid_spacing``, ``reach``, ``symmetric`` and, through the
        descriptors, ``pool``.
    """
    fixed, moving = (_averaged(descriptors, config.grid_spacing, config.pool) for descriptors in (fixed, moving))
    fixed_weight, moving_weight = (_share_known(mask, config.grid_spacing) for mask in (fixed_known, moving_known))
    return convex_displacement(
        fixed,
        moving,
        reach=config.reach,
        symmetric=config.symmetric,
        fixed_weight=fixed_weight,
        moving_weight=moving_weight,
    )


def descent_dissimilarity(
    fixed: Tensor,
    moving: Tensor,
    config: ConvexAdamConfig,
    *,
    fixed_known: Tensor | None = None,
    moving_known: Tensor | None = None,
) -> Dissimilarity:
    """What the descent of :func:`convex_adam` lowers; of the settings it depends on ``adam_spacing``, ``beyond`` and ``pool``."""
    fixed, moving = (_averaged(descriptors, config.adam_spacing, config.pool) for descriptors in (fixed, moving))
    weights = (_share_known(mask, config.adam_spacing) for mask in (fixed_known, moving_known))
    return Dissimilarity(fixed, moving, *weights, beyond=config.beyond)


def descent_stage(
    dissimilarity: Dissimilarity,
    found: Tensor,
    shape: tuple[int, int, int],
    config: ConvexAdamConfig,
    *,
    knots: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """The descent of :func:`convex_adam`.

    Args:
        dissimilarity: From :func:`descent_dissimilarity`.
        found: From :func:`search_stage`.
        shape, config, knots, progress: As there.

    Returns:
        As there.
    """
    start = regrid(found, config.grid_spacing, config.adam_spacing, triple(dissimilarity.shape))
    found = refine(dissimilarity, start, smoothness=config.smoothness, iterations=config.iterations, progress=progress)
    del dissimilarity
    if knots:
        return _filled_up(found, [-(-side // config.adam_spacing) for side in shape])
    return on_full_grid(found, config.adam_spacing, shape)


def _averaged(volume: Tensor, spacing: int, already: int = 1) -> Tensor:
    return volume if spacing == already else functional.avg_pool3d(volume, spacing // already)


def _share_known(mask: Tensor | None, spacing: int) -> Tensor | None:
    return None if mask is None else _averaged(mask[None].float(), spacing)[0]


def regrid(displacement: Tensor, spacing: int, new_spacing: int, shape: tuple[int, int, int]) -> Tensor:
    """A displacement between grids of cubes over one volume: (3, *shape), in voxels of the new grid.

    Args:
        displacement: (3, X, Y, Z), voxels of the old grid.
        spacing, new_spacing: Sides of the cubes.
    """
    centres = (identity(shape, displacement.device) + 0.5) * (new_spacing / spacing) - 0.5
    return interpolate_at(displacement, centres, beyond="border") * (spacing / new_spacing)


def on_full_grid(displacement: Tensor, spacing: int, shape: tuple[int, int, int]) -> Tensor:
    """:func:`regrid` to single voxels: linear between the cubes' centres, constant beyond the outermost."""
    if spacing == 1:
        return displacement
    inside = functional.interpolate(
        displacement[None] * spacing, scale_factor=spacing, mode="trilinear", align_corners=False
    )
    return _filled_up(inside[0], shape)


def _filled_up(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """(3, *shape), constant beyond the last voxels there are."""
    margins = [side - covered for side, covered in zip(shape, displacement.shape[1:], strict=True)]
    if not any(margins):
        return displacement
    return functional.pad(
        displacement[None], [amount for margin in reversed(margins) for amount in (0, margin)], mode="replicate"
    )[0]
