"""A k-space spike: one frequency far too strong, a herringbone over the whole volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform, uniforms
from pretraining.common.triple import triple

FLOOR = 1e-10
"""Added to amplitudes before the logarithm (MONAI's value)."""


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    """How often and how strong (MONAI's meaning and default)."""

    probability: float = 0.2
    strength: tuple[float, float] = (0.95 * 2.5, 1.1 * 2.5)
    """Range of the spike's log-amplitude over the mean log-amplitude of the volume."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class Spike:
    """One draw."""

    position: tuple[float, float, float]
    """In the shifted k-space, as a share of each side, in [0, 1)."""
    strength: float


def sample_spike(config: SpikeConfig, generator: Generator) -> Spike | None:
    """Draw where the spike is, uniformly over k-space, and how strong."""
    if not happens(config.probability, generator):
        return None
    return Spike(position=triple(uniforms(3, 0.0, 1.0, generator)), strength=uniform(*config.strength, generator))


def apply_spike(volume: Tensor, params: Spike) -> Tensor:
    """Set one frequency of (X, Y, Z) to exp(strength · mean log-amplitude), keeping its phase; the real part is taken.

    Notes:
        One frequency more is one plane wave more, which is a product of one wave per axis: no
            inverse transform is needed.
    """
    frequency = [
        (int(share * size) - size // 2) % size for share, size in zip(params.position, volume.shape, strict=True)
    ]
    spectrum = torch.fft.rfftn(volume)
    mean_log = _mean_over_whole_spectrum((spectrum.abs() + FLOOR).log_(), volume.shape[2])
    # The real transform keeps one of each conjugate pair.
    kept = (
        frequency
        if frequency[2] < spectrum.shape[2]
        else [-f % size for f, size in zip(frequency, volume.shape, strict=True)]
    )
    value = spectrum[kept[0], kept[1], kept[2]]
    value = value if kept is frequency else value.conj()
    wanted = torch.polar((params.strength * mean_log).exp_(), value.angle())
    # Multiples of a full turn are taken off as integers, so that float32 keeps the phase.
    turns = [
        f * torch.arange(size, device=volume.device) % size / size
        for f, size in zip(frequency, volume.shape, strict=True)
    ]
    waves = [torch.polar(torch.ones_like(turn), 2 * math.pi * turn) for turn in turns]
    planes = (wanted - value) / volume.numel() * waves[0][:, None] * waves[1]
    # Real part of planes x the last wave, as real products.
    change = planes.real[..., None] * waves[2].real
    return change.sub_(planes.imag[..., None] * waves[2].imag).add_(volume)


def _mean_over_whole_spectrum(half: Tensor, size: int) -> Tensor:
    """Mean over all frequencies of what is known for the non-negative ones of the last axis and even about 0."""
    weight = torch.full((half.shape[2],), 2.0, device=half.device)
    weight[0] = 1.0
    if size % 2 == 0:
        weight[-1] = 1.0
    return (half.mean(dim=(0, 1)) * weight).sum() / size
