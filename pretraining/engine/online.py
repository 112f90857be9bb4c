"""Online augmentation, drawn again at every use of a stored sample (Fig. 12, red boxes)."""

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
"""Chain of artefacts in the order of application; each is a field of :class:`OnlineConfig`."""

ArtefactDraws = tuple[tuple[str, Any], ...]
"""Name in ``ARTEFACTS`` and parameters of each artefact that occurs, in order."""


@dataclass(frozen=True, kw_only=True)
class OnlineBiasFieldConfig(BiasFieldConfig):
    """Probability and ranges of the online bias field (TorchIO's convention)."""

    probability: float = 0.5
    """Share of views with a bias field."""
    coefficients: tuple[float, float] = (-0.5, 0.5)
    """Range of each coefficient."""
    basis: Literal["legendre", "powers"] = "powers"
    """Basis of the polynomial: Legendre (MONAI) or powers 1, x, x², ... (TorchIO)."""


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Settings of the online augmentation, in the order of application."""

    enabled: bool = True
    """Augment stored samples; if disabled, they are only scaled to [0, 1]."""
    upper_quantile: float = 0.9999
    """Quantile at which each view is clipped before it is scaled to [0, 1]."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """Flips and affine map, shared by labels and views."""
    blur: BlurConfig = field(default_factory=BlurConfig)
    """Gaussian blur."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Gaussian noise."""
    bias_field: OnlineBiasFieldConfig = field(default_factory=OnlineBiasFieldConfig)
    """Smooth multiplicative shading."""
    log_gamma: LogGammaConfig = field(default_factory=LogGammaConfig)
    """Power law of the intensities."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """Motion during the acquisition."""

    def __post_init__(self) -> None:
        check_within("(0, 1]", upper_quantile=self.upper_quantile)


@dataclass(frozen=True, kw_only=True)
class Online:
    """Random parameters of one online augmentation of a sample."""

    upper_quantile: float
    """Quantile at which each view is clipped."""
    geometry: Geometry
    """Flips and affine map, shared by labels and views."""
    artefacts: tuple[ArtefactDraws, ArtefactDraws]
    """Artefacts of each view."""


def sample_online(config: OnlineConfig, generator: Generator) -> Online | None:
    """Draw the shared geometry and the artefacts of each view; None if ``config`` disables them."""
    if not config.enabled:
        return None
    geometry = sample_geometry(config.geometry, generator)
    return Online(
        upper_quantile=config.upper_quantile,
        geometry=geometry,
        artefacts=(_sample_artefacts(config, generator), _sample_artefacts(config, generator)),
    )


def apply_online(labels: Tensor, views: Tensor, params: Online) -> tuple[Tensor, Tensor]:
    """Apply one online augmentation: clip, shared geometry, artefacts of each view.

    Args:
        labels: (X, Y, Z) uint8.
        views: (2, X, Y, Z) uint8, as stored.
        params: Parameters from :func:`sample_online`.

    Returns:
        Labels (X, Y, Z) uint8 and views (2, X, Y, Z) float32, each view with range [0, 1].

    Notes:
        Unlike the paper, views are scaled to [0, 1] at the end, as noise and bias fields leave that
        range.
    """
    on_host = views.device.type == "cpu"
    # On a CPU, views are clipped and scaled one by one, as both do not fit the cache.
    parts = [clip_above(stored, params.upper_quantile) for stored in (views.split(1) if on_host else [views])]
    labels, mapped = apply_geometry(labels, torch.cat(parts) if on_host else parts[0], params.geometry)
    augmented = []
    for view, draws in zip(mapped, params.artefacts, strict=True):
        for name, artefact in draws:
            view = ARTEFACTS[name][1](view, artefact)
        augmented.append(min_max(view) if on_host else view)
    return labels, torch.stack(augmented) if on_host else min_max(torch.stack(augmented))


def clip_above(stored: Tensor, quantile: float) -> Tensor:
    """Clip volumes at their quantile and scale them to [0, 1].

    Args:
        stored: (V, X, Y, Z) uint8.
        quantile: Quantile in (0, 1], interpolated linearly between values as in NumPy.

    Returns:
        (V, X, Y, Z) float32 in [0, 1].

    Notes:
        There are only 256 values: a histogram gives the quantile, and a lookup table the result.
    """
    views, size = len(stored), stored[0].numel()
    index = stored.flatten(1).int()
    if views > 1:
        index += 256 * torch.arange(views, dtype=torch.int32, device=stored.device)[:, None]
    if stored.device.type == "cpu":
        counts = torch.bincount(index.flatten(), minlength=256 * views)
    else:
        # On a GPU, bincount would synchronize with the host.
        counts = torch.histc(index.float(), 256 * views, 0, 256 * views - 1)
    counts = counts.view(views, 256)
    rank = quantile * (size - 1)
    below = int(rank)
    ranks = upload(torch.tensor([[below, min(below + 1, size - 1)]] * views), stored.device)
    # The value at a rank is the first one whose cumulative count exceeds the rank.
    low, high = torch.searchsorted(counts.cumsum(1).long(), ranks, right=True).float().split(1, dim=1)
    bound = torch.lerp(low, high, rank - below)
    values = torch.arange(256.0, device=stored.device)
    least = torch.where(counts > 0, values, math.inf).amin(1, keepdim=True)
    table = torch.minimum(values, bound).sub_(least).div_((bound - least).clamp_min(1e-12)).clamp_(0, 1)
    return table.flatten().index_select(0, index.flatten()).view(stored.shape)


def _sample_artefacts(config: OnlineConfig, generator: Generator) -> ArtefactDraws:
    drawn = [(name, sample(getattr(config, name), generator)) for name, (sample, _) in ARTEFACTS.items()]
    return tuple((name, params) for name, params in drawn if params is not None)
