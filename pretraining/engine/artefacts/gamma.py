"""Gamma: a power law of the normalized intensities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform

EPSILON = 1e-7
"""Offset of the intensity range, which prevents division by 0 (MONAI's value)."""


@dataclass(frozen=True, kw_only=True)
class GammaConfig:
    """Probability and parameter range of gamma (MONAI's convention)."""

    probability: float = 0.5
    """Share of views that are changed."""
    exponent: tuple[float, float] = (0.5, 2.0)
    """Range of the exponent."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("(0, inf)", exponent=self.exponent)


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """Random parameters of one power law."""

    exponent: float
    """Exponent of the intensities."""


def sample_gamma(config: GammaConfig, generator: Generator) -> Gamma | None:
    """Draw the exponent uniformly; None if the view is not changed."""
    if not happens(config.probability, generator):
        return None
    return Gamma(exponent=uniform(*config.exponent, generator))


def apply_gamma(volume: Tensor, params: Gamma) -> Tensor:
    """Scale (X, Y, Z) to [0, 1], raise it to the exponent, and scale it back."""
    low, high = volume.aminmax()
    span = high - low
    return ((volume - low) / (span + EPSILON)).pow_(params.exponent).mul_(span).add_(low)
