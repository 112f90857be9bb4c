"""The global stage: every voxel of a coarse grid chooses among many displacements, and neighbours agree, step by step.

Similarity and smoothness are two convex problems, coupled ever more tightly: the choice is argmin
of cost + coupling · |d - u|², and ``u`` is the choice smoothed (Siebert, Hansen & Heinrich,
ConvexAdam, 2021/2024; App. B.4 of the paper).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.warp import warp

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_AT_ONCE = 2**22
"""Numbers of the coupled cost held at a time."""


@torch.no_grad()
def convex_displacement(
    fixed: Tensor,
    moving: Tensor,
    *,
    reach: int,
    symmetric: bool = True,
    fixed_weight: Tensor | None = None,
    moving_weight: Tensor | None = None,
) -> Tensor:
    """Displacement on a coarse grid, over up to ``reach`` voxels of it.

    Args:
        fixed, moving: (C, X, Y, Z) descriptors on one coarse grid.
        reach: Greatest displacement along each axis, voxels of the grid; (2 · reach + 1)³ are tried
            everywhere.
        symmetric: Whether to solve both ways and keep what both agree on (inverse consistency).
        fixed_weight, moving_weight: (X, Y, Z) in [0, 1], how much is known of each voxel; None for
            everything.

    Returns:
        (3, X, Y, Z), voxels of the grid.
    """
    shape, offsets = fixed.shape[1:], _offsets(reach, fixed.device)
    forward = _coupled(_cost(fixed, moving, reach, fixed_weight, moving_weight), offsets, shape)
    if not symmetric:
        return forward
    backward = _coupled(_cost(moving, fixed, reach, moving_weight, fixed_weight), offsets, shape)
    return consistent(forward, backward)[0]


def cost_bytes(voxels: int, reach: int) -> int:
    """Memory that the costs of all displacements take, on a coarse grid of so many voxels."""
    return 4 * voxels * (2 * reach + 1) ** 3


def consistent(forward: Tensor, backward: Tensor, *, iterations: int = 15) -> tuple[Tensor, Tensor]:
    """Both ways brought closer to being each other's inverse, (3, X, Y, Z) each."""
    for _ in range(iterations):
        forward, backward = (
            0.5 * (forward - warp(backward, forward)),
            0.5 * (backward - warp(forward, backward)),
        )
    return forward, backward


def _offsets(reach: int, device: torch.device) -> Tensor:
    """(K, 3), in the order of :func:`_cost`."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    return torch.cartesian_prod(steps, steps, steps)


def _cost(
    fixed: Tensor, moving: Tensor, reach: int, fixed_weight: Tensor | None = None, moving_weight: Tensor | None = None
) -> Tensor:
    """(K, V) squared differences for every displacement and voxel, summed over channels and smoothed twice over 3 x 3 x 3 voxels.

    A fixed voxel of which nothing is known has no preference, and a moving one is as good as the
    mean of all.
    """
    shape = fixed.shape[1:]
    known = typical = None
    if moving_weight is not None:
        known = functional.pad(moving_weight, (reach,) * 6)
        typical = _typical(fixed, moving, fixed_weight, moving_weight)
    moving = functional.pad(moving, (reach,) * 6)
    cost = fixed.new_empty(((2 * reach + 1) ** 3, *shape))
    for number, starts in enumerate(itertools.product(range(2 * reach + 1), repeat=3)):
        there = tuple(slice(start, start + side) for start, side in zip(starts, shape, strict=True))
        differences = (fixed - moving[(slice(None), *there)]).square_().sum(0)
        if known is not None and typical is not None:
            differences = torch.lerp(typical, differences, known[there])
        if fixed_weight is not None:
            differences *= fixed_weight
        cost[number] = _box_mean(_box_mean(differences[None]))[0]
    return cost.flatten(1)


def _typical(fixed: Tensor, moving: Tensor, fixed_weight: Tensor | None, moving_weight: Tensor) -> Tensor:
    """Mean squared difference where both are known."""
    both = moving_weight if fixed_weight is None else moving_weight * fixed_weight
    return (fixed - moving).square_().sum(0).mul_(both).sum() / both.sum().clamp_min(torch.finfo(both.dtype).tiny)


def _coupled(cost: Tensor, offsets: Tensor, shape: torch.Size) -> Tensor:
    """(3, *shape) from the (K, V) cost."""
    chosen = cost.argmin(0)
    lengths = offsets.square().sum(1, keepdim=True)
    for coupling in COUPLINGS:
        displacement = _smoothed(offsets, chosen, shape).flatten(1)
        chosen = torch.empty_like(chosen)
        step = max(1, _AT_ONCE // len(offsets))
        for start in range(0, len(chosen), step):
            part = slice(start, start + step)
            # |d - u|² without |u|², which all choices share.
            coupled = torch.addmm(
                cost[:, part] + coupling * lengths, offsets, displacement[:, part], alpha=-2 * coupling
            )
            chosen[part] = coupled.argmin(0)
    return _smoothed(offsets, chosen, shape)


def _smoothed(offsets: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    return _box_mean(offsets[chosen].T.reshape(3, *shape))


def _box_mean(volumes: Tensor) -> Tensor:
    """Mean over 3 x 3 x 3 voxels of (N, X, Y, Z), 0 beyond the border."""
    return functional.avg_pool3d(volumes[:, None], 3, stride=1, padding=1)[:, 0]
