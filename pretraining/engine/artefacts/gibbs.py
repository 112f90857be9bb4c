"""Gibbs ringing: the outer part of k-space is missing."""

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
    """How often and how strong (MONAI's meaning)."""

    probability: float = 0.5
    alpha: tuple[float, float] = (0.0, 0.333)
    """Range of the share of k-space's radius that is missing."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[0, 1]", alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Gibbs:
    """One draw."""

    alpha: float


def sample_gibbs(config: GibbsConfig, generator: Generator) -> Gibbs | None:
    """Draw alpha."""
    if not happens(config.probability, generator):
        return None
    return Gibbs(alpha=uniform(*config.alpha, generator))


def apply_gibbs(volume: Tensor, params: Gibbs) -> Tensor:
    """Keep of (X, Y, Z) the frequencies within a ball of radius (1 - alpha)·√2/2·(longest side).

    Notes:
        MONAI's ball is centred between voxels of the shifted k-space, so half a voxel off zero
        frequency for even sides, and the real part is taken afterwards. For a real volume that
        equals weighting each frequency by how many of it and its mirror image are inside, over 2;
        then half of k-space is enough.
    """
    limit = ((1 - params.alpha) * max(volume.shape) * math.sqrt(2) / 2) ** 2
    # Small tables, made on the host and brought over together.
    sizes = (*volume.shape[:2], volume.shape[2] // 2 + 1)
    tables = [_squares(np.arange(size), whole) for size, whole in zip(sizes, volume.shape, strict=True)]
    (here, mirrored) = (
        along_x[:, None, None] + along_y[:, None] + along_z
        for along_x, along_y, along_z in (
            table.split(sizes) for table in upload(np.concatenate(tables, axis=1), volume.device)
        )
    )
    weight = ((here <= limit).float() + (mirrored <= limit).float()) / 2
    return torch.fft.irfftn(torch.fft.rfftn(volume).mul_(weight), s=volume.shape)


def _squares(frequency: np.ndarray, size: int) -> np.ndarray:
    """(2, n) float32, squared distances of frequencies, and of their negatives, from the middle of the shifted k-space."""
    both = np.stack([frequency, -frequency])
    return np.square(((both % size + size // 2) % size - (size - 1) / 2).astype(np.float32))
