"""Gaussian smoothing of the offline set, slight, with zeros outside the volume."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniforms
from pretraining.common.triple import triple
from pretraining.engine.artefacts.gaussian import convolve_zero, integrated_kernel


@dataclass(frozen=True, kw_only=True)
class SmoothingConfig:
    """Probability and parameter range of smoothing (MONAI's convention)."""

    probability: float = 0.5
    """Share of views that are smoothed."""
    sigma_vox: tuple[float, float] = (0.0, 0.333)
    """Range of the standard deviation along each axis, voxels."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[0, inf)", sigma_vox=self.sigma_vox)


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Random parameters of one smoothing."""

    sigma_vox: tuple[float, float, float]
    """Standard deviation along each axis, voxels."""


def sample_smoothing(config: SmoothingConfig, generator: Generator) -> Smoothing | None:
    """Draw one sigma per axis; None if the view is not smoothed."""
    if not happens(config.probability, generator):
        return None
    return Smoothing(sigma_vox=triple(uniforms(3, *config.sigma_vox, generator)))


def apply_smoothing(volume: Tensor, params: Smoothing) -> Tensor:
    """Smooth (X, Y, Z); 0 outside."""
    return convolve_zero(volume, [integrated_kernel(sigma) for sigma in params.sigma_vox])
