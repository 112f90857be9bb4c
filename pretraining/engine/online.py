"""The online set: what the paper varies at every draw of a stored sample (Fig. 12, red boxes)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from pretraining.engine.appearance import min_max
from pretraining.engine.artefacts.bias_field import BiasFieldConfig, apply_bias_field, sample_bias_field
from pretraining.engine.artefacts.blur import BlurConfig, apply_blur, sample_blur
from pretraining.engine.artefacts.log_gamma import LogGammaConfig, apply_log_gamma, sample_log_gamma
from pretraining.engine.artefacts.motion import MotionConfig, apply_motion, sample_motion
from pretraining.engine.artefacts.noise import NoiseConfig, apply_noise, sample_noise
from pretraining.engine.geometry import Geometry, GeometryConfig, apply_geometry, sample_geometry

ARTEFACTS = {
    "blur": (sample_blur, apply_blur),
    "noise": (sample_noise, apply_noise),
    "bias_field": (sample_bias_field, apply_bias_field),
    "log_gamma": (sample_log_gamma, apply_log_gamma),
    "motion": (sample_motion, apply_motion),
}
"""The chain of each view, in the order of application; each is a field of :class:`OnlineConfig`."""

Drawn = tuple[tuple[str, Any], ...]
"""Name in ``ARTEFACTS`` and drawn parameters of each artefact that happens, in order."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How a stored sample is varied."""

    enabled: bool = True
    """False leaves samples as the offline set has them."""
    upper_quantile: float = 0.9999
    """Each view is clipped there first, and scaled to [0, 1]."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """Shared by both views."""
    blur: BlurConfig = field(default_factory=BlurConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    bias_field: BiasFieldConfig = field(default_factory=lambda: BiasFieldConfig(probability=0.5, coefficients=(-0.5, 0.5), basis="powers"))
    log_gamma: LogGammaConfig = field(default_factory=LogGammaConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)

    def __post_init__(self) -> None:
        if not 0 < self.upper_quantile <= 1:
            raise ValueError(f"upper_quantile must be in (0, 1], got {self.upper_quantile}")


@dataclass(frozen=True, kw_only=True)
class Online:
    """One draw, for a whole sample."""

    upper_quantile: float
    geometry: Geometry
    artefacts: tuple[Drawn, Drawn]
    """Per view."""


def sample_online(config: OnlineConfig, generator: Generator) -> Online | None:
    """Draw the geometry that both views share, and the artefacts of each; None if the set is not enabled."""
    if not config.enabled:
        return None
    geometry = sample_geometry(config.geometry, generator)
    return Online(
        upper_quantile=config.upper_quantile,
        geometry=geometry,
        artefacts=(_sample_artefacts(config, generator), _sample_artefacts(config, generator)),
    )


def apply_online(labels: Tensor, views: Tensor, params: Online) -> tuple[Tensor, Tensor]:
    """Vary labels (X, Y, Z) and views (2, X, Y, Z) in [0, 1]; the views fill [0, 1] again in the end.

    Notes
    -----
    That the result is scaled to [0, 1] once more is ours: noise and bias leave the unit range.
    """
    views = torch.stack([clip_above(view, params.upper_quantile) for view in views])
    labels, views = apply_geometry(labels, views, params.geometry)
    varied = []
    for view, drawn in zip(views, params.artefacts, strict=True):
        for name, artefact in drawn:
            view = ARTEFACTS[name][1](view, artefact)
        varied.append(min_max(view))
    return labels, torch.stack(varied)


def clip_above(volume: Tensor, quantile: float) -> Tensor:
    """Clip (X, Y, Z) at a quantile, interpolated linearly between values as NumPy does, and scale it to [0, 1]."""
    # Only the few values above the quantile are sorted.
    rank = (1 - quantile) * (volume.numel() - 1)
    below = int(rank)
    top = volume.flatten().topk(min(below + 2, volume.numel())).values
    bound = torch.lerp(top[below], top[-1], rank - below)
    return min_max(torch.minimum(volume, bound))


def _sample_artefacts(config: OnlineConfig, generator: Generator) -> Drawn:
    drawn = [(name, sample(getattr(config, name), generator)) for name, (sample, _) in ARTEFACTS.items()]
    return tuple((name, params) for name, params in drawn if params is not None)
