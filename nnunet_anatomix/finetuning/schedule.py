"""Learning rate: a half cosine from the first iteration to 0 after the last (App. B.5)."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer


def half_cosine(progress: float) -> float:
    """1 at ``progress`` 0, 0 at 1, cosine between; 0 beyond."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class CosinePerIteration:
    """Sets the optimizer's rates after every step, by itself.

    nnU-Net steps its scheduler once an epoch; a run shortened to one epoch would then never leave its first rate. This one
    counts optimizer steps between nnU-Net's calls, and an epoch's call restores the count, so that a continued run joins
    the curve.

    Parameters
    ----------
    optimizer : every group's present rate is its rate at iteration 0.
    iterations : optimizer steps until the rate is 0.
    iterations_per_epoch : steps that an epoch stands for in :meth:`step`.
    """

    def __init__(self, optimizer: Optimizer, iterations: int, iterations_per_epoch: int) -> None:
        self._optimizer = optimizer
        self._first_rates = [group["lr"] for group in optimizer.param_groups]
        self._iterations = iterations
        self._iterations_per_epoch = iterations_per_epoch
        self._iteration = 0
        optimizer.register_step_post_hook(self._advance)

    def step(self, epoch: int) -> None:
        """Set the rates of the first iteration of ``epoch``, counted from 0."""
        self._set(epoch * self._iterations_per_epoch)

    def _advance(self, *_: Any) -> None:
        self._set(self._iteration + 1)

    def _set(self, iteration: int) -> None:
        self._iteration = iteration
        for group, rate in zip(self._optimizer.param_groups, self._first_rates, strict=True):
            group["lr"] = rate * half_cosine(iteration / self._iterations)
