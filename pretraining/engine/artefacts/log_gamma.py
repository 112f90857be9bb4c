"""Gamma of the online set: a power law whose exponent is equally likely above and below 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability
from pretraining.common.random import happens, uniform


@dataclass(frozen=True, kw_only=True)
class LogGammaConfig:
    """Probability and parameter range of gamma (TorchIO's convention)."""

    probability: float = 0.5
    """Share of views that are changed."""
    max_log_exponent: float = 0.4
    """Bound of the exponent's logarithm, drawn from U[-max, max]."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_not_negative(max_log_exponent=self.max_log_exponent)


@dataclass(frozen=True, kw_only=True)
class LogGamma:
    """Random parameters of one power law."""

    log_exponent: float
    """Natural logarithm of the exponent."""


def sample_log_gamma(config: LogGammaConfig, generator: Generator) -> LogGamma | None:
    """Draw the exponent's logarithm; None if the view is not changed."""
    if not happens(config.probability, generator):
        return None
    return LogGamma(log_exponent=uniform(-config.max_log_exponent, config.max_log_exponent, generator))


def apply_log_gamma(volume: Tensor, params: LogGamma) -> Tensor:
    """Raise the absolute value of each voxel of (X, Y, Z) to the exponent and keep its sign."""
    return volume.abs().pow_(math.exp(params.log_exponent)).copysign_(volume)
