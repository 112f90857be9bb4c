"""Low resolution: resampling to a coarser grid and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_range
from pretraining.common.random import happens, uniform


@dataclass(frozen=True, kw_only=True)
class LowResolutionConfig:
    """Probability and parameter range of low resolution (MONAI's convention)."""

    probability: float = 0.333
    """Share of views with low resolution."""
    zoom: tuple[float, float] = (0.5, 1.0)
    """Range of the ratio of coarse to fine grid size, the same along all axes."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("(0, inf)", zoom=self.zoom)


@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """Random parameters of one low-resolution view."""

    zoom: float
    """Ratio of coarse to fine grid size."""


def sample_low_resolution(config: LowResolutionConfig, generator: Generator) -> LowResolution | None:
    """Draw the zoom; None if the resolution is not changed."""
    if not happens(config.probability, generator):
        return None
    return LowResolution(zoom=uniform(*config.zoom, generator))


def apply_low_resolution(volume: Tensor, params: LowResolution) -> Tensor:
    """Downsample (X, Y, Z) to the nearest voxels, then upsample it linearly."""
    coarse_shape = [max(1, round(size * params.zoom)) for size in volume.shape]
    coarse = F.interpolate(volume[None, None], coarse_shape, mode="nearest-exact")
    return F.interpolate(coarse, volume.shape, mode="trilinear", align_corners=False)[0, 0]
