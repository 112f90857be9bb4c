"""Learning rate over the steps of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of AdamW and its learning rate; the defaults are the paper's (App. B.3)."""

    rate: float = 2e-4
    """Highest learning rate."""
    beta1: float = 0.5
    """Decay of Adam's first moment: 0.5 in the published comments, 0.9 in the later code."""
    beta2: float = 0.999
    """Decay of Adam's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) per step, in units of the learning rate."""
    max_gradient_norm: float = 0.0
    """Norm to which longer gradients are clipped; 0: no clipping."""
    schedule: Literal["stairs", "cosine"] = "stairs"
    """Schedule: stairs drops the rate every stair_steps; cosine ends at zero after the last step.
    If wall time limits the training, stairs share it equally and the cosine ends with it.
    """
    warmup_steps: int = 0
    """Number of steps over which the rate rises linearly from zero."""
    stair_steps: int = 120_000
    """Length of one stair, steps; unused if wall time limits the training."""
    stair_factors: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    """Rates of the stairs, in units of the highest rate; the last one continues to the end."""

    def __post_init__(self) -> None:
        if self.rate <= 0 or min(self.weight_decay, self.max_gradient_norm) < 0:
            raise ValueError(f"need rate > 0, weight_decay >= 0 and max_gradient_norm >= 0, got {self}")
        if self.warmup_steps < 0 or self.stair_steps < 1 or not self.stair_factors:
            raise ValueError(f"need warmup_steps >= 0, stair_steps >= 1 and stair factors, got {self}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"need 0 <= beta < 1, got {self.beta1} and {self.beta2}")
        if self.schedule not in ("stairs", "cosine"):
            raise ValueError(f"schedule is 'stairs' or 'cosine', got {self.schedule!r}")


def rate_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """Compute the learning rate in a training of a fixed number of steps.

    Args:
        step: Current step, from 0.
        steps: Number of steps of the training.
        config: Highest rate and schedule.
    """
    if step < config.warmup_steps:
        return config.rate * (step + 1) / config.warmup_steps
    if config.schedule == "stairs":
        return config.rate * config.stair_factors[min(step // config.stair_steps, len(config.stair_factors) - 1)]
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.rate * 0.5 * (1 + math.cos(math.pi * progress))


def rate_in_time(step: int, progress: float, config: OptimizerConfig) -> float:
    """Compute the learning rate in a training that is limited by wall time.

    Args:
        step: Current step, from 0; used for the warm-up only, which multiplies the schedule.
        progress: Share of the wall time that is used up, in [0, 1].
        config: Highest rate and schedule. The stairs share the time equally, like the paper's
            five.

    Returns:
        Learning rate; for ``cosine`` it is 0 at ``progress`` 1.
    """
    rate = config.rate * (min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0)
    if config.schedule == "stairs":
        factors = config.stair_factors
        return rate * factors[min(int(progress * len(factors)), len(factors) - 1)]
    return rate * 0.5 * (1 + math.cos(math.pi * progress))
