"""The simple noise scale of the gradient: how many label maps a step average away its noise.

B = tr(Σ) / |G|², where G is the mean gradient of a label map and Σ the covariance of the gradients
of single label maps. A step of far fewer label maps than B is mostly noise; one of far more learns
hardly more than a smaller one.

References:
    McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162, sec. 2.2
    and app. A.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AVERAGED_STEPS = 200
"""Numerator and denominator are averaged separately, with weights that decay by a factor e over so
many steps.
"""


class GradientNoise:
    """Estimates of |G|² and tr(Σ) from the gradients that a step computes anyway.

    With several label maps a step, the gradients of single ones are compared with their mean. With
    one, the gradients of two consecutive steps are: they come from independent samples, so their
    product has the expectation |G|² as long as the weights hardly change in a step. Both are
    unbiased; neither reads a value back from the device.

    Args:
        parameters: Of the model; their ``grad`` is read, never changed.
        label_maps: Label maps of a step, over all ranks.
        world: Number of ranks.
    """

    def __init__(self, parameters: list[nn.Parameter], *, label_maps: int, world: int = 1) -> None:
        self._parameters, self._label_maps = parameters, label_maps
        self._scale = label_maps / world
        self._before: Tensor | None = None
        self._squares: list[Tensor] = []

    def after_label_map(self) -> None:
        """Note the gradient of one label map, which ``backward`` has just added, divided by their number on this rank, to ``grad``."""
        if self._label_maps == 1:
            return
        gradient = _flat(self._parameters)
        added = gradient if self._before is None else gradient - self._before
        self._before = gradient
        self._squares.append(_square(added) * self._scale**2)

    def single_square(self) -> Tensor:
        """Return () the mean over this rank's label maps of a single gradient's squared norm, to be averaged over the ranks."""
        squares, self._squares = self._squares, []
        if self._label_maps > 1:
            self._before = None
        return torch.stack(squares).mean() if squares else torch.zeros((), device=self._parameters[0].device)

    def estimate(self, single_square: Tensor) -> Tensor | None:
        """Estimate from the mean gradient of the whole step, which ``grad`` now holds.

        Args:
            single_square: () mean over all label maps of the step, of a single gradient's squared
                norm.

        Returns:
            (2,) estimates of |G|² and tr(Σ); None at the first of steps with one label map.
        """
        gradient, count = _flat(self._parameters), self._label_maps
        if count > 1:
            square = _square(gradient)
            return torch.stack([count * square - single_square, count * (single_square - square)]) / (count - 1)
        before, self._before = self._before, gradient
        if before is None:
            return None
        signal = torch.dot(before, gradient)
        return torch.stack([signal, (_square(before) + _square(gradient)) / 2 - signal])


class NoiseScale:
    """The ratio of the averages over recent steps; starts anew when a training is resumed."""

    def __init__(self) -> None:
        self._averages = torch.zeros(2, dtype=torch.float64)

    def update(self, estimates: list[Tensor]) -> float | None:
        """Add estimates of consecutive steps; here the host waits for the device.

        Returns:
            The noise scale, label maps; None while the estimate of |G|² is not above 0, i.e. lost
            in the noise.
        """
        if estimates:
            new = torch.stack(estimates).double().sum(dim=0).cpu()
            keep = torch.exp(torch.tensor(-len(estimates) / AVERAGED_STEPS, dtype=torch.float64))
            self._averages = keep * self._averages + new
        signal, noise = self._averages.tolist()
        return max(0.0, noise / signal) if signal > 0 else None


def _flat(parameters: list[nn.Parameter]) -> Tensor:
    """(n,) float32 copy of all gradients, zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]).float()


def _square(vector: Tensor) -> Tensor:
    return torch.dot(vector, vector)
