"""Gaussian mixture: intensities from labels, one Gaussian per label (Fig. 2B, App. B.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, noise_generator, noise_seed, uniforms
from pretraining.engine.execution import upload


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Ranges of each label's mean and std, on a scale of 0 to 255."""

    mean: tuple[float, float] = (25.0, 255.0)
    """Range of each label's mean, on a scale of 0 to 255."""
    std: tuple[float, float] = (5.0, 20.0)
    """Range of each label's standard deviation, on a scale of 0 to 255."""
    zero_background_probability: float = 0.25
    """Share of views whose label 0 is exactly 0."""

    def __post_init__(self) -> None:
        check_range(mean=self.mean)
        check_range("[0, inf)", std=self.std)
        check_probability(zero_background_probability=self.zero_background_probability)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Random parameters of one mixture."""

    means: tuple[float, ...]
    """Mean of each label, on a scale of 0 to 255."""
    stds: tuple[float, ...]
    """Standard deviation of each label, on a scale of 0 to 255."""
    noise_seed: int
    """Seed of the normal noise of all voxels."""


def sample_mixture(config: MixtureConfig, label_count: int, generator: Generator) -> Mixture:
    """Draw mean and std of labels 0 to ``label_count - 1``."""
    means = uniforms(label_count, *config.mean, generator)
    stds = uniforms(label_count, *config.std, generator)
    if happens(config.zero_background_probability, generator):
        means[0] = stds[0] = 0.0
    return Mixture(means=tuple(means), stds=tuple(stds), noise_seed=noise_seed(generator))


def apply_mixture(labels: Tensor, params: Mixture) -> Tensor:
    """Compute the intensities of one view, (X, Y, Z) float32; see :func:`apply_mixtures`."""
    return apply_mixtures(labels, [params])[0]


def apply_mixtures(labels: Tensor, params: Sequence[Mixture]) -> Tensor:
    """Compute the intensities of several views of one label map.

    Args:
        labels: (X, Y, Z) uint8.
        params: Mixture of each view.

    Returns:
        (views, X, Y, Z) float32, not clipped.
    """
    index = labels.flatten().int()
    means, stds = upload(torch.tensor([[each.means for each in params], [each.stds for each in params]]), labels.device)
    intensities = torch.empty((len(params), *labels.shape), device=labels.device)
    for view, each in zip(intensities, params, strict=True):
        torch.randn(
            labels.shape, generator=noise_generator(each.noise_seed, labels.device), device=labels.device, out=view
        )
    return intensities.mul_(stds.index_select(1, index).view_as(intensities)).add_(
        means.index_select(1, index).view_as(intensities)
    )
