"""Gaussian smoothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Generator, Tensor

from pretraining.engine.draws import happens, uniforms

TRUNCATION = 4.0
"""Half width of the kernel, standard deviations (MONAI's value)."""


@dataclass(frozen=True, kw_only=True)
class SmoothingConfig:
    """How often and how strong (MONAI's meaning)."""

    probability: float = 0.5
    sigma_vox: tuple[float, float] = (0.0, 0.333)
    """Range of each axis' standard deviation, voxels."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 0 <= self.sigma_vox[0] <= self.sigma_vox[1]:
            raise ValueError(f"need probability in [0, 1] and a range of sigmas >= 0, got {self}")


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """One draw."""

    sigma_vox: tuple[float, float, float]


def sample_smoothing(config: SmoothingConfig, generator: Generator) -> Smoothing | None:
    """Draw one sigma per axis."""
    if not happens(config.probability, generator):
        return None
    return Smoothing(sigma_vox=tuple(uniforms(3, *config.sigma_vox, generator)))


def apply_smoothing(volume: Tensor, params: Smoothing) -> Tensor:
    """Convolve (X, Y, Z) with one kernel per axis; outside is 0."""
    for axis, sigma in enumerate(params.sigma_vox):
        volume = _convolved(volume, axis, gaussian_kernel(sigma))
    return volume


def gaussian_kernel(sigma_vox: float) -> list[float]:
    """The Gaussian's integral over each voxel, out to 4 sigma; sums to nearly 1. Sigma 0 gives the identity."""
    half = int(max(sigma_vox * TRUNCATION, 0.5) + 0.5)
    if sigma_vox == 0:
        return [float(x == 0) for x in range(-half, half + 1)]
    edges = [math.erf((x - 0.5) / (sigma_vox * math.sqrt(2))) for x in range(-half, half + 2)]
    return [(right - left) / 2 for left, right in pairwise(edges)]


def _convolved(volume: Tensor, axis: int, kernel: list[float]) -> Tensor:
    """Symmetric convolution along one axis: a sum of shifted copies, as kernels are short."""
    half, size = len(kernel) // 2, volume.shape[axis]
    result = volume * kernel[half]
    for shift in range(1, min(half, size - 1) + 1):
        near, far = volume.narrow(axis, 0, size - shift), volume.narrow(axis, shift, size - shift)
        result.narrow(axis, shift, size - shift).add_(near, alpha=kernel[half + shift])
        result.narrow(axis, 0, size - shift).add_(far, alpha=kernel[half + shift])
    return result
