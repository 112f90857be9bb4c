"""Data term of the local stage: local correlation of descriptors and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_anatomix.registration.solvers.convex import Beyond
from nnunet_anatomix.registration.solvers.refine import smooth
from pretraining.imaging.interpolation import interpolate_at

_FLOOR = 1e-3
"""Variance that is added to the local one, share of the variance of the whole channel."""
_WEIGHT = 4.0
"""Factor with which one smoothness suits this term and the squared difference: chosen on pairs of
labelled hippocampi."""
_LEAST_VARIANCE = 1e-12
"""Variance up to which a channel is constant, as intensities without weight are, and left out."""
_LEAST = torch.finfo(torch.float32).tiny


class LocalCorrelation:
    """Four times one minus the local correlation of descriptors, mean of channels and voxels.

    Correlation does not depend on a scale and an offset that change slowly over the scan. Its
    windows are those of :func:`~nnunet_anatomix.registration.solvers.refine.smooth`: bell-shaped,
    7 voxels wide, with a standard deviation of 1.4 voxels. Only known voxels count in them.

    Args:
        fixed: (C, X, Y, Z) float32 fixed descriptors.
        moving: (C, X, Y, Z) float32 moving descriptors on the same grid.
        fixed_weight: (X, Y, Z) in [0, 1], weight of each fixed voxel. Default: 1.
        moving_weight: (X, Y, Z) in [0, 1], weight of each moving voxel, sampled where the
            descriptors are, 0 beyond the grid. Default: 1 everywhere.
        voxels: Number of voxels that the sum is divided by. Default: the sum of ``fixed_weight``.
        beyond: Values beyond the moving grid: ``border`` repeats its border; ``zeros``.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical
        Image Analysis 12(1), 2008.
    """

    def __init__(
        self,
        fixed: Tensor,
        moving: Tensor,
        fixed_weight: Tensor | None = None,
        moving_weight: Tensor | None = None,
        *,
        voxels: float | None = None,
        beyond: Beyond = "border",
    ) -> None:
        self.shape = tuple(fixed.shape[1:])
        self._fixed_weight = fixed.new_ones(self.shape) if fixed_weight is None else fixed_weight.float()
        self._moving_weight = None if moving_weight is None else moving_weight.float()
        self._beyond = beyond
        known = self._fixed_weight.sum().clamp_min(1)
        variances = [_variance(channel, self._fixed_weight, known) for channel in fixed]
        self._channels = [
            (fixed[number : number + 1], moving[number : number + 1], _FLOOR * variance)
            for number, variance in enumerate(variances)
            if variance > _LEAST_VARIANCE
        ]
        self._scale = _WEIGHT / (known.item() if voxels is None else max(1.0, voxels)) / max(1, len(self._channels))

    def gradient(self, position: Tensor) -> tuple[float, Tensor]:
        """Compute the dissimilarity and its derivative with respect to each position.

        Args:
            position: (3, X, Y, Z), voxels of the moving grid.

        Returns:
            The dissimilarity, and its (3, X, Y, Z) derivative, per voxel.
        """
        weight = self._fixed_weight
        if self._moving_weight is not None:
            weight = weight * interpolate_at(self._moving_weight[None], position)[0]
        inside = smooth(weight[None]).clamp_min_(_LEAST)
        position = position.detach().requires_grad_()
        total = 0.0
        # One channel at a time, since a correlation needs forty volumes.
        for fixed, moving, floor in self._channels:
            with torch.enable_grad():
                moved = interpolate_at(moving, position, beyond=self._beyond)
            value, along = _correlation(fixed, moved.detach(), weight, inside, floor)
            total += (weight - value * weight).sum().item() * self._scale
            moved.backward(along.mul_(-self._scale))
        return total, torch.zeros_like(position) if position.grad is None else position.grad


def _variance(channel: Tensor, weight: Tensor, known: Tensor) -> float:
    mean = (channel * weight).sum() / known
    return ((channel - mean).square_() * weight).sum().div_(known).item()


def _correlation(fixed: Tensor, moved: Tensor, weight: Tensor, inside: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Compute local correlations, and the derivative of their weighted sum.

    Args:
        fixed: (1, X, Y, Z).
        moved: (1, X, Y, Z).
        weight: (X, Y, Z), weight of each voxel.
        inside: (1, X, Y, Z), its mean in the window around each voxel.
        floor: Variance that is added to the local ones.

    Returns:
        Two (1, X, Y, Z) tensors: correlations in [-1, 1], and the derivative of their sum, weighted
        with ``weight``, with respect to ``moved``. The window's mean is its own transpose.
    """
    fixed_mean, moved_mean = smooth(weight * fixed).div_(inside), smooth(weight * moved).div_(inside)
    fixed_variance = smooth(weight * fixed.square()).div_(inside).sub_(fixed_mean.square()).clamp_min_(0).add_(floor)
    moved_variance = smooth(weight * moved.square()).div_(inside).sub_(moved_mean.square()).clamp_min_(0).add_(floor)
    value = smooth(weight * fixed * moved).div_(inside).sub_(fixed_mean * moved_mean)
    norm = (fixed_variance * moved_variance).sqrt_()
    value.div_(norm)
    by_fixed = (weight / inside).div(norm)
    by_moved = (weight / inside).mul(value).div_(moved_variance)
    offset = by_moved * moved_mean - by_fixed * fixed_mean
    along = smooth(by_fixed).mul_(fixed).sub_(smooth(by_moved).mul_(moved)).add_(smooth(offset))
    return value, along.mul_(weight)
