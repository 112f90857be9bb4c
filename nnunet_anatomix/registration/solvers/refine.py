"""Local stage of ConvexAdam: Adam on dissimilarity and smoothness of a displacement."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement, product
from typing import Literal, Protocol

import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers.convex import Beyond
from nnunet_anatomix.registration.warp import identity

Regularization = Literal["bending", "diffusion"]
"""Penalty on second and first differences of the displacement, or on first ones alone."""

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
    regularization: Regularization = "bending",
    iterations: int = 80,
    rate: float = 1.0,
    beyond: Beyond = "border",
    progress: Callable[[], object] = lambda: None,
) -> Tensor:
    """Refine a displacement by gradient descent with Adam.

    Args:
        dissimilarity: Data term of the descriptors.
        start: (3, X, Y, Z), voxels of their grid.
        smoothness: Weight of the regularization.
        regularization: Penalty: ``bending`` energy plus diffusion, or ``diffusion`` alone, squared
            differences between neighbours, as in ConvexAdam.
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

        Borders tell the displacement across them, not along them. Diffusion fills in what they do
        not tell by a displacement as constant as possible, bending by one as straight as possible:
        it does not resist scaling and shear. Bending alone lets the displacement run away where the
        scans tell nothing, hence both.
    """
    positions = identity(start.shape[1:], start.device)
    knots = start.clone()
    optimizer = torch.optim.Adam([knots], lr=rate)
    displacement = start
    for _ in range(iterations):
        displacement = smooth(knots, beyond)
        _, gradient = dissimilarity.gradient(positions + displacement)
        gradient += smoothness * diffusion_gradient(displacement)
        if regularization == "bending":
            gradient += smoothness * bending_gradient(displacement)
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


def bending_gradient(displacement: Tensor) -> Tensor:
    """Compute the gradient of the bending energy, 0 for every affine displacement.

    Args:
        displacement: (3, X, Y, Z), voxels.

    Returns:
        (3, X, Y, Z), derivative of the sum of the squared second differences along all nine pairs
        of axes, over the components, per voxel.
    """
    gradient = torch.zeros_like(displacement)
    # Components one by one, so that second differences need a third of the memory.
    for (first, second), component in product(combinations_with_replacement((0, 1, 2), 2), range(3)):
        bend = displacement[component].diff(dim=first).diff(dim=second)
        if bend.numel() == 0:  # along an axis of one or two voxels
            continue
        bend *= (2 if first == second else 4) / displacement[0].numel()
        _add_transposed_diff(gradient[component], _transposed_diff(bend, second), first)
    return gradient


def diffusion_gradient(displacement: Tensor) -> Tensor:
    """Compute the gradient of the mean squared difference of neighbours, summed over the axes.

    Args:
        displacement: (3, X, Y, Z), voxels.

    Returns:
        (3, X, Y, Z).
    """
    gradient = torch.zeros_like(displacement)
    for axis in (1, 2, 3):
        step = displacement.diff(dim=axis)
        step *= 2 / max(step.numel(), 1)
        _add_transposed_diff(gradient, step, axis)
    return gradient


def _transposed_diff(step: Tensor, axis: int) -> Tensor:
    """Apply the transpose of ``diff`` along an axis, which becomes one longer."""
    shape = list(step.shape)
    shape[axis] += 1
    result = step.new_zeros(shape)
    _add_transposed_diff(result, step, axis)
    return result


def _add_transposed_diff(result: Tensor, step: Tensor, axis: int) -> None:
    side = step.shape[axis]
    result.narrow(axis, 1, side).add_(step)
    result.narrow(axis, 0, side).sub_(step)
