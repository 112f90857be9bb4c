"""Sharpening by unsharp masking: add a multiple of the difference of two smoothings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability, check_range
from pretraining.common.random import happens, uniform, uniforms
from pretraining.common.triple import triple
from pretraining.engine.artefacts.gaussian import convolve_zero, integrated_kernel


@dataclass(frozen=True, kw_only=True)
class SharpeningConfig:
    """Probability and parameter ranges of sharpening (MONAI's convention and defaults)."""

    probability: float = 0.25
    """Share of views that are sharpened."""
    sigma1_vox: tuple[float, float] = (0.5, 1.0)
    """Range of the first smoothing's standard deviation along each axis, voxels."""
    min_sigma2_vox: float = 0.5
    """Lower bound of the second smoothing's std, voxels; the upper bound is the first's."""
    strength: tuple[float, float] = (10.0, 30.0)
    """Range of the weight of the difference."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_not_negative(min_sigma2_vox=self.min_sigma2_vox)
        check_range(f"[{self.min_sigma2_vox}, inf)", sigma1_vox=self.sigma1_vox)
        check_range(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class Sharpening:
    """Random parameters of one sharpening."""

    sigma1_vox: tuple[float, float, float]
    """Standard deviation of the first smoothing along each axis, voxels."""
    sigma2_vox: tuple[float, float, float]
    """Standard deviation of the second smoothing along each axis, voxels."""
    strength: float
    """Weight of the difference."""


def sample_sharpening(config: SharpeningConfig, generator: Generator) -> Sharpening | None:
    """Draw both smoothings and the weight; None if the view is not sharpened."""
    if not happens(config.probability, generator):
        return None
    first = uniforms(3, *config.sigma1_vox, generator)
    second = [uniform(config.min_sigma2_vox, sigma, generator) for sigma in first]
    return Sharpening(
        sigma1_vox=triple(first), sigma2_vox=triple(second), strength=uniform(*config.strength, generator)
    )


def apply_sharpening(volume: Tensor, params: Sharpening) -> Tensor:
    """Sharpen (X, Y, Z): once + strength · (once - twice), of the volume smoothed once and twice.

    The volume is 0 outside.
    """
    once = convolve_zero(volume, [integrated_kernel(sigma) for sigma in params.sigma1_vox])
    twice = convolve_zero(once, [integrated_kernel(sigma) for sigma in params.sigma2_vox])
    return twice.neg_().add_(once).mul_(params.strength).add_(once)
