"""Local stage of ConvexAdam: Adam on dissimilarity and smoothness of a displacement."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.warp import identity

_SMOOTHINGS = 3
"""Number of successive box means over 3 x 3 x 3 voxels, close to a cubic B-spline."""


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
    """Refine a displacement by gradient descent with Adam.

    Args:
        dissimilarity: Data term of the descriptors.
        start: (3, X, Y, Z), voxels of their grid.
        smoothness: Weight of the squared differences between neighbours' displacements.
        iterations: Number of iterations.
        rate: Learning rate of Adam, voxels.
        progress: Function called after every iteration.

    Returns:
        (3, X, Y, Z), voxels of the grid.

    Notes:
        As in ConvexAdam, the parameters are knots, and the displacement is their smoothed field.
        The gradients are written out: smoothing is linear and symmetric, so the gradient of the
        knots is the smoothed gradient of the displacement.
    """
    positions = identity(start.shape[1:], start.device)
    knots = start.clone()
    optimizer = torch.optim.Adam([knots], lr=rate)
    displacement = start
    for _ in range(iterations):
        displacement = smooth(knots)
        _, gradient = dissimilarity.gradient(positions + displacement)
        gradient += smoothness * _roughness_gradient(displacement)
        knots.grad = smooth(gradient)
        optimizer.step()
        progress()
    return displacement


def smooth(field: Tensor) -> Tensor:
    """Smooth (C, X, Y, Z) by three box means with zeros beyond the border; a symmetric operator."""
    for axis in (1, 2, 3):
        for _ in range(_SMOOTHINGS):
            sums, side = field / 3, field.shape[axis] - 1
            sums.narrow(axis, 0, side).add_(field.narrow(axis, 1, side), alpha=1 / 3)
            sums.narrow(axis, 1, side).add_(field.narrow(axis, 0, side), alpha=1 / 3)
            field = sums
    return field


def _roughness_gradient(displacement: Tensor) -> Tensor:
    """Compute the gradient of the mean squared difference of neighbours, summed over the axes."""
    gradient = torch.zeros_like(displacement)
    for axis in (1, 2, 3):
        step = displacement.diff(dim=axis)
        step *= 2 / max(step.numel(), 1)
        side = step.shape[axis]
        gradient.narrow(axis, 1, side).add_(step)
        gradient.narrow(axis, 0, side).sub_(step)
    return gradient
