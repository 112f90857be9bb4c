"""Simple noise scale of the gradient: label maps per step that average its noise out.

``B = tr(Σ) / |G|²``, where G is the mean gradient of a label map and Σ the covariance of the
gradients of single label maps. A step of far fewer label maps than B is mostly noise; a step of
far more learns hardly more than a smaller one.

References:
    McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162, sec. 2.2
    and app. A.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AVERAGED_STEPS = 200
"""Steps over which the weights of past estimates decay by a factor e; numerator and denominator are
averaged separately.
"""


class GradientNoise:
    """Estimator of ``|G|²`` and tr(Σ) from the gradients that a step computes anyway.

    With several label maps per step, the gradients of single label maps are compared with their
    mean. With one, the gradients of two consecutive steps are compared: they come from independent
    samples, so their product has the expectation ``|G|²`` as long as the weights hardly change in a
    step. Both estimates are unbiased; neither reads a value back from the device.

    Args:
        parameters: Parameters of the model; their ``grad`` is read, never changed.
        label_maps: Number of label maps per step, over all ranks.
        world: Number of ranks.
    """

    def __init__(self, parameters: list[nn.Parameter], *, label_maps: int, world: int = 1) -> None:
        self._parameters, self._label_maps = parameters, label_maps
        self._scale = label_maps / world
        self._before: Tensor | None = None
        self._squares: list[Tensor] = []

    def add_label_map(self) -> None:
        """Add the label map whose gradient ``backward`` has just added to ``grad``.

        Notes:
            The loss of a label map is divided by the number of label maps on this rank.
        """
        if self._label_maps == 1:
            return
        gradient = _flat(self._parameters)
        added = gradient if self._before is None else gradient - self._before
        self._before = gradient
        self._squares.append(_square(added) * self._scale**2)

    def take_single_square(self) -> Tensor:
        """Return the mean squared norm of this rank's single gradients, and forget them.

        Returns:
            (), to be averaged over the ranks.
        """
        squares, self._squares = self._squares, []
        if self._label_maps > 1:
            self._before = None
        return torch.stack(squares).mean() if squares else torch.zeros((), device=self._parameters[0].device)

    def estimate(self, single_square: Tensor) -> Tensor | None:
        """Estimate ``|G|²`` and tr(Σ) from the mean gradient of the step, in ``grad``.

        Args:
            single_square: () mean squared norm of single gradients, over all label maps of the
                step.

        Returns:
            (2,) estimates of ``|G|²`` and tr(Σ); None at the first step with one label map.
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
    """Ratio of the averages over recent steps; restarts when a training is resumed."""

    def __init__(self) -> None:
        self._averages = torch.zeros(2, dtype=torch.float64)

    def update(self, estimates: list[Tensor]) -> float | None:
        """Add estimates of consecutive steps; this synchronizes with the GPU.

        Args:
            estimates: (2,) estimates of ``|G|²`` and tr(Σ), one per step.

        Returns:
            Noise scale, label maps; None while the estimate of ``|G|²`` is not above 0, because
            noise dominates it.
        """
        if estimates:
            new = torch.stack(estimates).double().sum(dim=0).cpu()
            keep = torch.exp(torch.tensor(-len(estimates) / AVERAGED_STEPS, dtype=torch.float64))
            self._averages = keep * self._averages + new
        signal, noise = self._averages.tolist()
        return max(0.0, noise / signal) if signal > 0 else None


def _flat(parameters: list[nn.Parameter]) -> Tensor:
    """Return an (n,) float32 copy of all gradients, with zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]).float()


def _square(vector: Tensor) -> Tensor:
    return torch.dot(vector, vector)
