"""The online set: what the paper varies at every draw of a stored sample (Fig. 12, red boxes)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_within
from pretraining.engine.appearance import min_max
from pretraining.engine.artefacts.bias_field import BiasFieldConfig, apply_bias_field, sample_bias_field
from pretraining.engine.artefacts.blur import BlurConfig, apply_blur, sample_blur
from pretraining.engine.artefacts.log_gamma import LogGammaConfig, apply_log_gamma, sample_log_gamma
from pretraining.engine.artefacts.motion import MotionConfig, apply_motion, sample_motion
from pretraining.engine.artefacts.noise import NoiseConfig, apply_noise, sample_noise
from pretraining.engine.execution import upload
from pretraining.engine.geometry import Geometry, GeometryConfig, apply_geometry, sample_geometry

ARTEFACTS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
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
class OnlineBiasFieldConfig(BiasFieldConfig):
    """The bias field with the online set's ranges (TorchIO's meaning)."""

    probability: float = 0.5
    coefficients: tuple[float, float] = (-0.5, 0.5)
    basis: Literal["legendre", "powers"] = "powers"


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
    bias_field: OnlineBiasFieldConfig = field(default_factory=OnlineBiasFieldConfig)
    log_gamma: LogGammaConfig = field(default_factory=LogGammaConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)

    def __post_init__(self) -> None:
        check_within("(0, 1]", upper_quantile=self.upper_quantile)


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
    """Vary labels (X, Y, Z) and stored views (2, X, Y, Z) uint8; the views become float32 and fill [0, 1] in the end.

    Notes:
        That the result is scaled to [0, 1] once more is ours: noise and bias leave the unit range.
    """
    on_host = views.device.type == "cpu"
    # A processor's cache holds less than both views.
    parts = [clip_above(stored, params.upper_quantile) for stored in (views.split(1) if on_host else [views])]
    labels, varied = apply_geometry(labels, torch.cat(parts) if on_host else parts[0], params.geometry)
    changed = []
    for view, drawn in zip(varied, params.artefacts, strict=True):
        for name, artefact in drawn:
            view = ARTEFACTS[name][1](view, artefact)
        changed.append(min_max(view) if on_host else view)
    return labels, torch.stack(changed) if on_host else min_max(torch.stack(changed))


def clip_above(stored: Tensor, quantile: float) -> Tensor:
    """Clip each of (V, X, Y, Z) uint8 at a quantile, interpolated linearly between values as NumPy does, and scale it to float32 in [0, 1].

    Notes:
        There are 256 values: counting them gives the quantile, and a table of 256 results all the
            rest.
    """
    views, size = len(stored), stored[0].numel()
    index = stored.flatten(1).int()
    if views > 1:
        index += 256 * torch.arange(views, dtype=torch.int32, device=stored.device)[:, None]
    if stored.device.type == "cpu":
        counts = torch.bincount(index.flatten(), minlength=256 * views)
    else:
        # On a GPU bincount would make the host wait.
        counts = torch.histc(index.float(), 256 * views, 0, 256 * views - 1)
    counts = counts.view(views, 256)
    rank = quantile * (size - 1)
    below = int(rank)
    ranks = upload(torch.tensor([[below, min(below + 1, size - 1)]] * views), stored.device)
    # The value at a rank is the first one that, with all smaller ones, is counted more often than
    # that.
    low, high = torch.searchsorted(counts.cumsum(1).long(), ranks, right=True).float().split(1, dim=1)
    bound = torch.lerp(low, high, rank - below)
    values = torch.arange(256.0, device=stored.device)
    least = torch.where(counts > 0, values, math.inf).amin(1, keepdim=True)
    table = torch.minimum(values, bound).sub_(least).div_((bound - least).clamp_min(1e-12)).clamp_(0, 1)
    return table.flatten().index_select(0, index.flatten()).view(stored.shape)


def _sample_artefacts(config: OnlineConfig, generator: Generator) -> Drawn:
    drawn = [(name, sample(getattr(config, name), generator)) for name, (sample, _) in ARTEFACTS.items()]
    return tuple((name, params) for name, params in drawn if params is not None)
