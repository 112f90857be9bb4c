"""Blur of the online set: Gaussian smoothing that preserves the mean, mild to strong."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniforms
from pretraining.common.triple import triple
from pretraining.engine.artefacts.gaussian import convolve_mirrored, sampled_kernel


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """Probability and range of blur (TorchIO's convention and default, voxels of 1 mm)."""

    probability: float = 0.33
    """Share of views that are blurred."""
    sigma_vox: tuple[float, float] = (0.0, 2.0)
    """Range of the standard deviation along each axis, voxels."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[0, inf)", sigma_vox=self.sigma_vox)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Random parameters of one blur."""

    sigma_vox: tuple[float, float, float]
    """Standard deviation along each axis, voxels."""


def sample_blur(config: BlurConfig, generator: Generator) -> Blur | None:
    """Draw one sigma per axis; None if the view is not blurred."""
    if not happens(config.probability, generator):
        return None
    return Blur(sigma_vox=triple(uniforms(3, *config.sigma_vox, generator)))


def apply_blur(volume: Tensor, params: Blur) -> Tensor:
    """Blur (X, Y, Z), mirrored at the borders."""
    return convolve_mirrored(volume, [sampled_kernel(sigma) for sigma in params.sigma_vox])
