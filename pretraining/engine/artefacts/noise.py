"""Gaussian noise, independent per voxel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, noise_generator, noise_seed, uniform


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Probability and parameter range of noise (TorchIO's convention)."""

    probability: float = 0.33
    """Share of views with noise."""
    std: tuple[float, float] = (0.0, 0.25)
    """Range of the standard deviation, in units of a [0, 1] image."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[0, inf)", std=self.std)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Random parameters of the noise of one view."""

    std: float
    """Standard deviation, in units of a [0, 1] image."""
    noise_seed: int
    """Seed of the values at the voxels."""


def sample_noise(config: NoiseConfig, generator: Generator) -> Noise | None:
    """Draw the std and the seed; None if there is no noise."""
    if not happens(config.probability, generator):
        return None
    return Noise(std=uniform(*config.std, generator), noise_seed=noise_seed(generator))


def apply_noise(volume: Tensor, params: Noise) -> Tensor:
    """Add independent normal noise to (X, Y, Z)."""
    noise = torch.randn(volume.shape, generator=noise_generator(params.noise_seed, volume.device), device=volume.device)
    return noise.mul_(params.std).add_(volume)
