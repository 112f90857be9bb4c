"""Local stage of ConvexAdam: Adam on dissimilarity and smoothness of a displacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers.convex import Beyond
from nnunet_anatomix.registration.warp import identity

_SMOOTHINGS = 3
"""Number of successive box means over 3 x 3 x 3 voxels, close to a cubic B-spline."""


class DataTerm(Protocol):
    """Disagreement of two scans, as a function of the positions at which the moving one is read."""

    def gradient(self, position: Tensor) -> tuple[float, Tensor]:
        """Return the disagreement, and its derivative with respect to each position."""


@torch.no_grad()
def refine(
    dissimilarity: DataTerm,
    start: Tensor,
    *,
    smoothness: float,
    iterations: int = 80,
    rate: float = 1.0,
    beyond: Beyond = "border",
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Refine a displacement by gradient descent with Adam.

    Args:
        dissimilarity: Data term of the descriptors.
        start: (3, X, Y, Z), voxels of their grid.
        smoothness: Weight of the squared differences between neighbours' displacements.
        iterations: Number of iterations.
        rate: Learning rate of Adam, voxels.
        beyond: Values of the displacement beyond the border of the grid. Zeros, as in the
            convexadam package, pull it to zero at the border.
        progress: Function called after every iteration.

    Returns:
        (3, X, Y, Z), voxels of the grid.

    Notes:
        As in ConvexAdam, the parameters are knots, and the displacement is their smoothed field.
        The gradients are written out: smoothing is linear and its own transpose, so the gradient of
        the knots is the smoothed gradient of the displacement.
    """
    positions = identity(start.shape[1:], start.device)
    knots = start.clone()
    optimizer = torch.optim.Adam([knots], lr=rate)
    displacement = start
    for _ in range(iterations):
        displacement = smooth(knots, beyond)
        _, gradient = dissimilarity.gradient(positions + displacement)
        gradient += smoothness * _roughness_gradient(displacement)
        knots.grad = smooth(gradient, beyond)
        optimizer.step()
        progress()
    return displacement


def smooth(field: Tensor, beyond: Beyond = "border") -> Tensor:
    """Smooth (C, X, Y, Z) by three box means over 3 x 3 x 3 voxels.

    Notes:
        Each mean is its own transpose, with zeros and with repeated borders alike: to repeat the
        border before every mean adds 1/3 to both ends of the diagonal of its matrix, nothing else.
    """
    for axis in (1, 2, 3):
        last = field.shape[axis] - 1
        for _ in range(_SMOOTHINGS):
            sums = field / 3
            sums.narrow(axis, 0, last).add_(field.narrow(axis, 1, last), alpha=1 / 3)
            sums.narrow(axis, 1, last).add_(field.narrow(axis, 0, last), alpha=1 / 3)
            if beyond == "border":
                sums.select(axis, 0).add_(field.select(axis, 0), alpha=1 / 3)
                sums.select(axis, last).add_(field.select(axis, last), alpha=1 / 3)
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
