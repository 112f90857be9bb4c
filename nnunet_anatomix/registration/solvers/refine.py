"""The local stage: displacements on a finer grid follow the gradient of similarity and smoothness, with Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.warp import identity

_SMOOTHINGS = 3
"""Box means over 3 x 3 x 3 voxels in a row, close to a cubic B-spline."""


@torch.no_grad()
def refine(
    dissimilarity: Dissimilarity,
    start: Tensor,
    *,
    smoothness: float,
    iterations: int = 80,
    rate: float = 1.0,
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Descend from ``start``.

    Args:
        dissimilarity: Of the descriptors.
        start: (3, X, Y, Z), voxels of their grid.
        smoothness: Weight of the squared differences between neighbours' displacements.
        iterations: Of Adam.
        rate: Of Adam, voxels.
        progress: Called after every iteration.

    Returns:
        (3, X, Y, Z), voxels of the grid.

    Notes:
        Optimized are knots; the displacement is their smoothed field, as ConvexAdam has it. All
        derivatives are written out: smoothing is linear and symmetric, so that the displacement's
        derivative, smoothed once more, is the knots'.
    """
    here = identity(start.shape[1:], start.device)
    knots = start.clone()
    optimizer = torch.optim.Adam([knots], lr=rate)
    displacement = start
    for _ in range(iterations):
        displacement = smooth(knots)
        _, descent = dissimilarity.gradient(here + displacement)
        descent += smoothness * _roughness_gradient(displacement)
        knots.grad = smooth(descent)
        optimizer.step()
        progress()
    return displacement


def smooth(field: Tensor) -> Tensor:
    """(C, X, Y, Z) after three box means, with zeros beyond the border: its own transpose."""
    for axis in (1, 2, 3):
        for _ in range(_SMOOTHINGS):
            sums, side = field / 3, field.shape[axis] - 1
            sums.narrow(axis, 0, side).add_(field.narrow(axis, 1, side), alpha=1 / 3)
            sums.narrow(axis, 1, side).add_(field.narrow(axis, 0, side), alpha=1 / 3)
            field = sums
    return field


def _roughness_gradient(displacement: Tensor) -> Tensor:
    """Derivative of the mean squared difference of neighbours, summed over the three axes."""
    gradient = torch.zeros_like(displacement)
    for axis in (1, 2, 3):
        step = displacement.diff(dim=axis)
        step *= 2 / max(step.numel(), 1)
        side = step.shape[axis]
        gradient.narrow(axis, 1, side).add_(step)
        gradient.narrow(axis, 0, side).sub_(step)
    return gradient
