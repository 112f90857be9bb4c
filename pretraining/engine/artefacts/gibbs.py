"""Gibbs ringing: k-space without its outer part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform
from pretraining.engine.execution import upload


@dataclass(frozen=True, kw_only=True)
class GibbsConfig:
    """Probability and parameter range of Gibbs ringing (MONAI's convention)."""

    probability: float = 0.5
    """Share of views with Gibbs ringing."""
    alpha: tuple[float, float] = (0.0, 0.333)
    """Range of the share of k-space's radius that is removed."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[0, 1]", alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Gibbs:
    """Random parameters of one ringing."""

    alpha: float
    """Share of k-space's radius that is removed."""


def sample_gibbs(config: GibbsConfig, generator: Generator) -> Gibbs | None:
    """Draw alpha; None if there is no ringing."""
    if not happens(config.probability, generator):
        return None
    return Gibbs(alpha=uniform(*config.alpha, generator))


def apply_gibbs(volume: Tensor, params: Gibbs) -> Tensor:
    """Keep the frequencies of (X, Y, Z) within a ball of radius (1 - alpha)·√2/2·(longest side).

    Notes:
        MONAI's ball is centred between voxels of the shifted k-space, half a voxel off zero
        frequency for even sides, and the result is the real part. For a real volume, this equals a
        weight per frequency of 0, 1/2 or 1: half the number of those inside, of the frequency and
        its mirror image. So half of k-space suffices.
    """
    limit = ((1 - params.alpha) * max(volume.shape) * math.sqrt(2) / 2) ** 2
    # Small tables, computed on the host and uploaded together.
    sizes = (*volume.shape[:2], volume.shape[2] // 2 + 1)
    tables = [_squared_distances(np.arange(kept), size) for kept, size in zip(sizes, volume.shape, strict=True)]
    (direct, mirrored) = (
        along_x[:, None, None] + along_y[:, None] + along_z
        for along_x, along_y, along_z in (
            table.split(sizes) for table in upload(np.concatenate(tables, axis=1), volume.device)
        )
    )
    weight = ((direct <= limit).float() + (mirrored <= limit).float()) / 2
    return torch.fft.irfftn(torch.fft.rfftn(volume).mul_(weight), s=volume.shape)


def _squared_distances(frequency: np.ndarray, size: int) -> np.ndarray:
    """Return squared distances from the middle of the shifted k-space along one axis.

    They are (2, n) float32, of the frequencies and of their mirror images.
    """
    frequencies = np.stack([frequency, -frequency])
    return np.square(((frequencies % size + size // 2) % size - (size - 1) / 2).astype(np.float32))
