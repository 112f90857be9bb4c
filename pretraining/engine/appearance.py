"""From labels to one view: mixture, texture, artefacts (App. B.1.2, Fig. 12, the offline set)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_count, check_not_negative, check_positive
from pretraining.common.triple import triple
from pretraining.engine.artefacts.bias_field import (
    BiasFieldConfig,
    apply_bias_field,
    apply_bias_fields,
    sample_bias_field,
)
from pretraining.engine.artefacts.gamma import GammaConfig, apply_gamma, sample_gamma
from pretraining.engine.artefacts.gibbs import GibbsConfig, apply_gibbs, sample_gibbs
from pretraining.engine.artefacts.low_resolution import LowResolutionConfig, apply_low_resolution, sample_low_resolution
from pretraining.engine.artefacts.sharpening import SharpeningConfig, apply_sharpening, sample_sharpening
from pretraining.engine.artefacts.smoothing import SmoothingConfig, apply_smoothing, sample_smoothing
from pretraining.engine.artefacts.spike import SpikeConfig, apply_spike, sample_spike
from pretraining.engine.fields import SmoothNoise, sample_smooth_noise, smooth_noise, smooth_noises
from pretraining.engine.mixture import Mixture, MixtureConfig, apply_mixtures, sample_mixture

ARTEFACTS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "bias_field": (sample_bias_field, apply_bias_field),
    "spike": (sample_spike, apply_spike),
    "gamma": (sample_gamma, apply_gamma),
    "smoothing": (sample_smoothing, apply_smoothing),
    "gibbs": (sample_gibbs, apply_gibbs),
    "sharpening": (sample_sharpening, apply_sharpening),
    "low_resolution": (sample_low_resolution, apply_low_resolution),
}
"""The chain, in the order of application; each is a field of :class:`AppearanceConfig`."""


@dataclass(frozen=True, kw_only=True)
class TextureConfig:
    """Multiplicative texture of one view: times 1 + strength · smooth noise."""

    strength: float = 0.02
    """Factor of the noise."""
    scales_vox: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)
    """Coarse-grid spacings, voxels at any side."""
    max_std: float = 5.0
    """Upper bound of each scale's std, dimensionless."""

    def __post_init__(self) -> None:
        check_count(scales=len(self.scales_vox))
        check_positive(scales_vox=self.scales_vox)
        check_not_negative(max_std=self.max_std, strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """How a view is made of labels."""

    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)
    bias_field: BiasFieldConfig = field(default_factory=BiasFieldConfig)
    spike: SpikeConfig = field(default_factory=SpikeConfig)
    gamma: GammaConfig = field(default_factory=GammaConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    gibbs: GibbsConfig = field(default_factory=GibbsConfig)
    sharpening: SharpeningConfig = field(default_factory=SharpeningConfig)
    low_resolution: LowResolutionConfig = field(default_factory=LowResolutionConfig)


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """One draw of a view."""

    mixture: Mixture
    texture: SmoothNoise
    texture_strength: float
    artefacts: tuple[tuple[str, Any], ...]
    """Name in ``ARTEFACTS`` and drawn parameters of each artefact that happens, in order."""


def sample_appearance(config: AppearanceConfig, label_count: int, generator: Generator) -> Appearance:
    """Draw everything about one view of an ensemble with labels 0 to ``label_count - 1``."""
    mixture = sample_mixture(config.mixture, label_count, generator)
    texture = sample_smooth_noise(config.texture.scales_vox, 0.0, config.texture.max_std, generator)
    drawn = [(name, sample(getattr(config, name), generator)) for name, (sample, _) in ARTEFACTS.items()]
    return Appearance(
        mixture=mixture,
        texture=texture,
        texture_strength=config.texture.strength,
        artefacts=tuple((name, params) for name, params in drawn if params is not None),
    )


def apply_appearance(labels: Tensor, params: Appearance) -> Tensor:
    """Make a view of labels (X, Y, Z) uint8: (X, Y, Z) float32 in [0, 1]."""
    return _apply_together(labels, [params])[0]


def apply_appearances(labels: Tensor, params: Sequence[Appearance]) -> Tensor:
    """Make views of labels (X, Y, Z) uint8, drawn with one configuration: (views, X, Y, Z) float32 in [0, 1].

    Notes:
        On a CPU one after the other, as they fit its cache better; elsewhere together as far as all
        take the same steps.
    """
    if labels.device.type == "cpu":
        return torch.stack([apply_appearance(labels, each) for each in params])
    return _apply_together(labels, params)


def _apply_together(labels: Tensor, params: Sequence[Appearance]) -> Tensor:
    views = min_max(apply_mixtures(labels, [each.mixture for each in params]).clamp_min_(0))
    textures = _textures(labels, [each.texture for each in params])
    views = min_max(views.mul_(textures.mul_(params[0].texture_strength).add_(1)))
    chains = [list(each.artefacts) for each in params]
    if all(chain and chain[0][0] == "bias_field" for chain in chains):
        views = apply_bias_fields(views, [chain.pop(0)[1] for chain in chains])
    changed = []
    for view, chain in zip(views, chains, strict=True):
        for name, drawn in chain:
            view = ARTEFACTS[name][1](view, drawn)
        changed.append(view)
    return min_max((torch.stack(changed) if len(changed) > 1 else changed[0][None]).clamp_min_(0))


def _textures(labels: Tensor, params: Sequence[SmoothNoise]) -> Tensor:
    """(views, X, Y, Z)."""
    shape = triple(labels.shape)
    if labels.device.type != "cpu":
        return smooth_noises(shape, params, device=labels.device)[:, 0]
    fields = [smooth_noise(shape, each) for each in params]
    return torch.cat(fields) if len(fields) > 1 else fields[0]


def min_max(volumes: Tensor) -> Tensor:
    """Scale each of (..., X, Y, Z) to [0, 1] by its least and its greatest value; a constant volume becomes 0."""
    if volumes[..., 0, 0, 0].numel() == 1:
        low, high = volumes.aminmax()
    else:
        low, high = (each[..., None, None] for each in volumes.flatten(-3).aminmax(dim=-1, keepdim=True))
    return (volumes - low).div_((high - low).clamp_min(1e-12))
