"""Appearance model: Gaussian mixture, texture and artefacts of one view (Fig. 2B, App. B.1.2).

The artefacts are the offline set of Fig. 12.
"""

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
"""Chain of artefacts in the order of application; each is a field of :class:`AppearanceConfig`."""


@dataclass(frozen=True, kw_only=True)
class TextureConfig:
    """Multiplicative texture of one view: a factor of 1 + strength · smooth noise."""

    strength: float = 0.02
    """Factor of the smooth noise."""
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
    """Settings of the appearance model, in the order of application."""

    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """One Gaussian per label."""
    texture: TextureConfig = field(default_factory=TextureConfig)
    """Multiplicative smooth noise."""
    bias_field: BiasFieldConfig = field(default_factory=BiasFieldConfig)
    """Smooth multiplicative shading."""
    spike: SpikeConfig = field(default_factory=SpikeConfig)
    """Herringbone pattern of one k-space frequency."""
    gamma: GammaConfig = field(default_factory=GammaConfig)
    """Power law of the intensities."""
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    """Gaussian smoothing."""
    gibbs: GibbsConfig = field(default_factory=GibbsConfig)
    """Ringing by a truncated k-space."""
    sharpening: SharpeningConfig = field(default_factory=SharpeningConfig)
    """Unsharp masking."""
    low_resolution: LowResolutionConfig = field(default_factory=LowResolutionConfig)
    """Resampling to a coarser grid and back."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Random parameters of one view."""

    mixture: Mixture
    """Mean and std of each label."""
    texture: SmoothNoise
    """Smooth noise of the texture."""
    texture_strength: float
    """Factor of the smooth noise."""
    artefacts: tuple[tuple[str, Any], ...]
    """Name in ``ARTEFACTS`` and parameters of each artefact that occurs, in order."""


def sample_appearance(config: AppearanceConfig, label_count: int, generator: Generator) -> Appearance:
    """Draw all parameters of one view of a label map with labels 0 to ``label_count - 1``."""
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
    """Render one view, (X, Y, Z) float32 in [0, 1], of labels (X, Y, Z) uint8."""
    return _apply_batched(labels, [params])[0]


def apply_appearances(labels: Tensor, params: Sequence[Appearance]) -> Tensor:
    """Render several views of one label map.

    Args:
        labels: (X, Y, Z) uint8.
        params: Parameters of each view, all drawn with one configuration.

    Returns:
        (views, X, Y, Z) float32 in [0, 1].

    Notes:
        On a CPU, views are rendered one by one, since one view fits the cache better. Elsewhere the
        steps that all views share are batched.
    """
    if labels.device.type == "cpu":
        return torch.stack([apply_appearance(labels, each) for each in params])
    return _apply_batched(labels, params)


def _apply_batched(labels: Tensor, params: Sequence[Appearance]) -> Tensor:
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
    """Return the smooth noise of each view, (views, X, Y, Z)."""
    shape = triple(labels.shape)
    if labels.device.type != "cpu":
        return smooth_noises(shape, params, device=labels.device)[:, 0]
    fields = [smooth_noise(shape, each) for each in params]
    return torch.cat(fields) if len(fields) > 1 else fields[0]


def min_max(volumes: Tensor) -> Tensor:
    """Scale each of (..., X, Y, Z) by its minimum and maximum to [0, 1]; constant ones become 0."""
    if volumes[..., 0, 0, 0].numel() == 1:
        low, high = volumes.aminmax()
    else:
        low, high = (each[..., None, None] for each in volumes.flatten(-3).aminmax(dim=-1, keepdim=True))
    return (volumes - low).div_((high - low).clamp_min(1e-12))
