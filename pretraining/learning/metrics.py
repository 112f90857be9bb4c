"""Measurements of the training steps between two records of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretraining.learning.distributed import Ranks, mean_over_ranks


@dataclass
class Metrics:
    """Measurements of all steps since the last record, kept on the device until they are read."""

    began: float = field(default_factory=time.monotonic)
    """Time of the last record, seconds."""
    waited_s: float = 0.0
    """Time spent waiting for samples, seconds."""
    losses: list[tuple[int, Tensor]] = field(default_factory=list)
    """(sample index, (terms,) losses) of each label map of this rank."""
    gradient_norms: list[Tensor] = field(default_factory=list)
    """() norm of the gradient before clipping, per step."""
    noise: list[Tensor] = field(default_factory=list)
    """(2,) estimates of :class:`~pretraining.learning.noise_scale.GradientNoise`, per step."""
    stop_flag: Tensor | None = None
    """() float, above 0 if any rank was asked to stop."""

    @property
    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop; reading it synchronizes with the GPU."""
        return self.stop_flag is not None and bool(self.stop_flag > 0)

    @property
    def steps(self) -> int:
        """Number of steps since the last record."""
        return len(self.gradient_norms)

    def mean_losses(self, ranks: Ranks) -> Tensor:
        """Return the (terms,) mean losses over all label maps of all ranks."""
        return mean_over_ranks(torch.stack([losses for _, losses in self.losses]).mean(dim=0), ranks)
