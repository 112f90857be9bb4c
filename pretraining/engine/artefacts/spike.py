"""K-space spike: one frequency that is far too strong, a herringbone pattern over the volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform, uniforms
from pretraining.common.triple import triple

FLOOR = 1e-10
"""Offset of amplitudes before the logarithm (MONAI's value)."""


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    """Probability and parameter range of a spike (MONAI's convention and default)."""

    probability: float = 0.2
    """Share of views with a spike."""
    strength: tuple[float, float] = (0.95 * 2.5, 1.1 * 2.5)
    """Range of the ratio of the spike's log-amplitude to the volume's mean log-amplitude."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class Spike:
    """Random parameters of one spike."""

    position: tuple[float, float, float]
    """Position in the shifted k-space as a share of each side, in [0, 1)."""
    strength: float
    """Ratio of the spike's log-amplitude to the volume's mean log-amplitude."""


def sample_spike(config: SpikeConfig, generator: Generator) -> Spike | None:
    """Draw the position, uniformly over k-space, and the strength; None if there is no spike."""
    if not happens(config.probability, generator):
        return None
    return Spike(position=triple(uniforms(3, 0.0, 1.0, generator)), strength=uniform(*config.strength, generator))


def apply_spike(volume: Tensor, params: Spike) -> Tensor:
    """Set the amplitude of one frequency of (X, Y, Z) to exp(strength · mean log-amplitude).

    The phase is kept, and the result is the real part.

    Notes:
        Changing one frequency adds one plane wave, a product of one wave per axis: no inverse
        transform is needed.
    """
    frequency = [
        (int(share * size) - size // 2) % size for share, size in zip(params.position, volume.shape, strict=True)
    ]
    spectrum = torch.fft.rfftn(volume)
    mean_log = _mean_over_whole_spectrum((spectrum.abs() + FLOOR).log_(), volume.shape[2])
    # The real transform has one of each conjugate pair.
    available = (
        frequency
        if frequency[2] < spectrum.shape[2]
        else [-f % size for f, size in zip(frequency, volume.shape, strict=True)]
    )
    value = spectrum[available[0], available[1], available[2]]
    value = value if available is frequency else value.conj()
    spike = torch.polar((params.strength * mean_log).exp_(), value.angle())
    # Full turns are removed in integer arithmetic, so that float32 represents the phase exactly.
    turns = [
        f * torch.arange(size, device=volume.device) % size / size
        for f, size in zip(frequency, volume.shape, strict=True)
    ]
    waves = [torch.polar(torch.ones_like(turn), 2 * math.pi * turn) for turn in turns]
    planes = (spike - value) / volume.numel() * waves[0][:, None] * waves[1]
    # Real part of planes x the last wave, as real products.
    change = planes.real[..., None] * waves[2].real
    return change.sub_(planes.imag[..., None] * waves[2].imag).add_(volume)


def _mean_over_whole_spectrum(half: Tensor, size: int) -> Tensor:
    """Compute the mean over all frequencies from those with a non-negative one along the last axis.

    Values must be equal at a frequency and its mirror image.
    """
    weight = torch.full((half.shape[2],), 2.0, device=half.device)
    weight[:1].fill_(1.0)  # assignment of a number to one element would wait for a GPU
    if size % 2 == 0:
        weight[-1:].fill_(1.0)
    return (half.mean(dim=(0, 1)) * weight).sum() / size
