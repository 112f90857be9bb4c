"""Gibbs ringing: the outer part of k-space is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pretraining.engine.draws import happens, uniform


@dataclass(frozen=True, kw_only=True)
class GibbsConfig:
    """How often and how strong (MONAI's meaning)."""

    probability: float = 0.5
    alpha: tuple[float, float] = (0.0, 0.333)
    """Range of the share of k-space's radius that is missing."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 0 <= self.alpha[0] <= self.alpha[1] <= 1:
            raise ValueError(f"need probability in [0, 1] and a range of alphas in [0, 1], got {self}")


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

    Notes
    -----
    MONAI's ball is centred between voxels of the shifted k-space, so half a voxel off zero frequency for even sides, and the
    real part is taken afterwards. For a real volume that equals weighting each frequency by how many of it and its mirror image are
    inside, over 2; then half of k-space is enough.
    """
    limit = ((1 - params.alpha) * max(volume.shape) * math.sqrt(2) / 2) ** 2
    here, mirrored = None, None
    for axis, size in enumerate(volume.shape):
        frequency = torch.arange(size // 2 + 1 if axis == 2 else size, device=volume.device)
        view = [-1 if a == axis else 1 for a in range(3)]
        squares = [((f % size + size // 2) % size - (size - 1) / 2).square().view(view) for f in (frequency, -frequency)]
        here, mirrored = (squares[0], squares[1]) if here is None else (here + squares[0], mirrored + squares[1])
    weight = ((here <= limit).float() + (mirrored <= limit).float()) / 2
    return torch.fft.irfftn(torch.fft.rfftn(volume).mul_(weight), s=volume.shape)
