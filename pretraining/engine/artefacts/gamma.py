"""Gamma: a power law on the normalized intensities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform

EPSILON = 1e-7
"""Added to the range, against division by 0 (MONAI's value)."""


@dataclass(frozen=True, kw_only=True)
class GammaConfig:
    """How often and how strong (MONAI's meaning)."""

    probability: float = 0.5
    exponent: tuple[float, float] = (0.5, 2.0)
    """Range of the exponent."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("(0, inf)", exponent=self.exponent)


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """One draw."""

    exponent: float


def sample_gamma(config: GammaConfig, generator: Generator) -> Gamma | None:
    """Draw the exponent, uniformly."""
    if not happens(config.probability, generator):
        return None
    return Gamma(exponent=uniform(*config.exponent, generator))


def apply_gamma(volume: Tensor, params: Gamma) -> Tensor:
    """Raise (X, Y, Z) to the power, between its own least and greatest value."""
    low, high = volume.aminmax()
    span = high - low
    return ((volume - low) / (span + EPSILON)).pow_(params.exponent).mul_(span).add_(low)
