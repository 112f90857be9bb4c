"""Sharpening: what a second smoothing takes away from a first one is added many times over."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability, check_range
from pretraining.common.random import happens, uniform, uniforms
from pretraining.common.triple import triple
from pretraining.engine.artefacts.gaussian import convolve_zero, integrated_kernel


@dataclass(frozen=True, kw_only=True)
class SharpeningConfig:
    """How often and how strong (MONAI's meaning and defaults)."""

    probability: float = 0.25
    sigma1_vox: tuple[float, float] = (0.5, 1.0)
    """Range of the first smoothing's standard deviation along each axis, voxels."""
    min_sigma2_vox: float = 0.5
    """The second smoothing's is drawn from U[this, the first's], voxels."""
    strength: tuple[float, float] = (10.0, 30.0)
    """Range of the weight of the difference."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_not_negative(min_sigma2_vox=self.min_sigma2_vox)
        check_range(f"[{self.min_sigma2_vox}, inf)", sigma1_vox=self.sigma1_vox)
        check_range(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class Sharpening:
    """One draw."""

    sigma1_vox: tuple[float, float, float]
    sigma2_vox: tuple[float, float, float]
    strength: float


def sample_sharpening(config: SharpeningConfig, generator: Generator) -> Sharpening | None:
    """Draw both smoothings and the weight."""
    if not happens(config.probability, generator):
        return None
    first = uniforms(3, *config.sigma1_vox, generator)
    second = [uniform(config.min_sigma2_vox, sigma, generator) for sigma in first]
    return Sharpening(
        sigma1_vox=triple(first), sigma2_vox=triple(second), strength=uniform(*config.strength, generator)
    )


def apply_sharpening(volume: Tensor, params: Sharpening) -> Tensor:
    """Sharpen (X, Y, Z): once + strength · (once - twice), smoothed once and twice; outside is 0."""
    once = convolve_zero(volume, [integrated_kernel(sigma) for sigma in params.sigma1_vox])
    twice = convolve_zero(once, [integrated_kernel(sigma) for sigma in params.sigma2_vox])
    return twice.neg_().add_(once).mul_(params.strength).add_(once)
