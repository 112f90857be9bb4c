"""Global stage of ConvexAdam: coupled convex optimization over discrete displacements.

Similarity and smoothness alternate with increasing coupling: each voxel of a coarse grid selects
the displacement ``d`` of least cost + coupling · ``|d - u|²``, and ``u`` is the smoothed selection
(Siebert, Hansen & Heinrich, ConvexAdam, 2021/2024; App. B.4 of the paper).
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.warp import warp

Beyond = Literal["border", "zeros"]
"""Values beyond the border of a grid: those of its nearest voxel, or zeros."""
COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_CHUNK = 2**22
"""Elements of the coupled cost held at a time."""


@torch.no_grad()
def convex_displacement(
    fixed: Tensor,
    moving: Tensor,
    *,
    reach: int,
    symmetric: bool = True,
    fixed_weight: Tensor | None = None,
    moving_weight: Tensor | None = None,
    beyond: Beyond = "border",
) -> Tensor:
    """Compute a displacement on a coarse grid by coupled convex optimization.

    Args:
        fixed: (C, X, Y, Z) fixed descriptors on the coarse grid.
        moving: (C, X, Y, Z) moving descriptors on the same grid.
        reach: Greatest displacement along each axis, voxels of the grid; (2 · reach + 1)³
            candidates per voxel.
        symmetric: Solve in both directions and enforce inverse consistency.
        fixed_weight: (X, Y, Z) in [0, 1], known share of each fixed voxel. Default: 1.
        moving_weight: (X, Y, Z) in [0, 1], known share of each moving voxel. Default: 1.
        beyond: Values of descriptors, costs and displacements beyond the border of the grid. Zeros,
            as in the convexadam package, pull the displacement to zero at the border.

    Returns:
        (3, X, Y, Z), voxels of the grid.
    """
    shape, offsets = fixed.shape[1:], _offsets(reach, fixed.device)
    forward_cost = _compute_cost(fixed, moving, reach, fixed_weight, moving_weight, beyond=beyond)
    forward = _optimize(forward_cost, offsets, shape, beyond)
    if not symmetric:
        return forward
    del forward_cost
    backward_cost = _compute_cost(moving, fixed, reach, moving_weight, fixed_weight, beyond=beyond)
    backward = _optimize(backward_cost, offsets, shape, beyond)
    return make_inverse_consistent(forward, backward, beyond=beyond)[0]


def cost_bytes(voxels: int, reach: int) -> int:
    """Return the size of the costs of all displacements on a coarse grid of ``voxels``, bytes."""
    return 4 * voxels * (2 * reach + 1) ** 3


def make_inverse_consistent(
    forward: Tensor, backward: Tensor, *, iterations: int = 15, beyond: Beyond = "border"
) -> tuple[Tensor, Tensor]:
    """Make two (3, X, Y, Z) displacements more nearly each other's inverse."""
    for _ in range(iterations):
        forward, backward = (
            0.5 * (forward - warp(backward, forward, beyond=beyond)),
            0.5 * (backward - warp(forward, backward, beyond=beyond)),
        )
    return forward, backward


def _offsets(reach: int, device: torch.device) -> Tensor:
    """Return all displacements, (K, 3), in the order of :func:`_compute_cost`."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    return torch.cartesian_prod(steps, steps, steps)


def _compute_cost(
    fixed: Tensor,
    moving: Tensor,
    reach: int,
    fixed_weight: Tensor | None = None,
    moving_weight: Tensor | None = None,
    *,
    beyond: Beyond = "border",
) -> Tensor:
    """Compute the (K, V) cost of every displacement at every voxel.

    The cost is the squared difference, summed over channels and smoothed twice over 3 x 3 x 3
    voxels. Unknown fixed voxels have cost 0 everywhere, unknown moving voxels the mean cost.
    """
    shape = fixed.shape[1:]
    known = mean = None
    if moving_weight is not None:
        known = functional.pad(moving_weight, (reach,) * 6)
        mean = _mean_difference(fixed, moving, fixed_weight, moving_weight)
    moving = pad(moving, reach, beyond)
    cost = fixed.new_empty(((2 * reach + 1) ** 3, *shape))
    for number, starts in enumerate(itertools.product(range(2 * reach + 1), repeat=3)):
        shifted = tuple(slice(start, start + side) for start, side in zip(starts, shape, strict=True))
        differences = (fixed - moving[(slice(None), *shifted)]).square_().sum(0)
        if known is not None and mean is not None:
            differences = torch.lerp(mean, differences, known[shifted])
        if fixed_weight is not None:
            differences *= fixed_weight
        cost[number] = _box_mean(_box_mean(differences[None], beyond), beyond)[0]
    return cost.flatten(1)


def _mean_difference(fixed: Tensor, moving: Tensor, fixed_weight: Tensor | None, moving_weight: Tensor) -> Tensor:
    """Compute the mean squared difference where both are known."""
    known = moving_weight if fixed_weight is None else moving_weight * fixed_weight
    return (fixed - moving).square_().sum(0).mul_(known).sum() / known.sum().clamp_min(torch.finfo(known.dtype).tiny)


def _optimize(cost: Tensor, offsets: Tensor, shape: torch.Size, beyond: Beyond) -> Tensor:
    """Alternate selection and smoothing; ``(3, *shape)`` from the (K, V) cost."""
    selected = cost.argmin(0)
    lengths = offsets.square().sum(1, keepdim=True)
    for coupling in COUPLINGS:
        displacement = _smooth_selection(offsets, selected, shape, beyond).flatten(1)
        selected = torch.empty_like(selected)
        step = max(1, _CHUNK // len(offsets))
        for start in range(0, len(selected), step):
            chunk = slice(start, start + step)
            # |d - u|² without |u|², which is constant over the displacements d.
            coupled = torch.addmm(
                cost[:, chunk] + coupling * lengths, offsets, displacement[:, chunk], alpha=-2 * coupling
            )
            selected[chunk] = coupled.argmin(0)
    return _smooth_selection(offsets, selected, shape, beyond)


def _smooth_selection(offsets: Tensor, selected: Tensor, shape: torch.Size, beyond: Beyond) -> Tensor:
    return _box_mean(offsets[selected].T.reshape(3, *shape), beyond)


def _box_mean(volumes: Tensor, beyond: Beyond) -> Tensor:
    """Average (N, X, Y, Z) over 3 x 3 x 3 voxels."""
    return functional.avg_pool3d(pad(volumes, 1, beyond)[:, None], 3, stride=1)[:, 0]


def pad(volumes: Tensor, margin: int, beyond: Beyond) -> Tensor:
    """Extend (N, X, Y, Z) by ``margin`` voxels on all sides."""
    margins = (margin,) * 6
    return (
        functional.pad(volumes, margins, mode="replicate") if beyond == "border" else functional.pad(volumes, margins)
    )
