"""Gamma of the online set: a power law with an exponent that is as often above as below 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability
from pretraining.common.random import happens, uniform


@dataclass(frozen=True, kw_only=True)
class LogGammaConfig:
    """How often and how strong (TorchIO's meaning)."""

    probability: float = 0.5
    max_log_exponent: float = 0.4
    """The exponent's logarithm is drawn from U[-max, max]."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_not_negative(max_log_exponent=self.max_log_exponent)


@dataclass(frozen=True, kw_only=True)
class LogGamma:
    """One draw."""

    log_exponent: float


def sample_log_gamma(config: LogGammaConfig, generator: Generator) -> LogGamma | None:
    """Draw the exponent's logarithm."""
    if not happens(config.probability, generator):
        return None
    return LogGamma(log_exponent=uniform(-config.max_log_exponent, config.max_log_exponent, generator))


def apply_log_gamma(volume: Tensor, params: LogGamma) -> Tensor:
    """Raise the size of each value of (X, Y, Z) to the power and keep its sign."""
    return volume.abs().pow_(math.exp(params.log_exponent)).copysign_(volume)
