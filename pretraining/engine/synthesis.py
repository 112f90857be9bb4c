"""The whole of Figure 2: organ templates in, one label ensemble and two views of it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.engine.appearance import AppearanceConfig, apply_appearance, sample_appearance
from pretraining.engine.ensemble import EnsembleConfig, render_ensemble, sample_ensemble
from pretraining.engine.online import OnlineConfig, apply_online, sample_online
from pretraining.engine.seeds import sample_generator
from pretraining.engine.templates import TemplateBank


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The data engine: everything about a sample but the templates and the seed."""

    side: int = 128
    """Of the cubic volumes, voxels; divisible by 16."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Fig. 2A."""
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    """Fig. 2B, drawn once for each view."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """What the paper draws again at every use of a stored sample."""

    def __post_init__(self) -> None:
        if self.side < 16 or self.side % 16:
            raise ValueError(f"side must be a positive multiple of 16, as the backbone halves it four times, got {self.side}")


class Pair(NamedTuple):
    """One sample."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background. To index with it, convert it first: PyTorch takes uint8 for a mask."""
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""


@torch.no_grad()
def synthesize_pair(bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu") -> Pair:
    """Make sample ``index`` of the data set that (bank, config, seed) define.

    The sample is a pure function of the arguments on a given device type: no global random state is read or changed, and
    on CUDA the host never waits for the device.

    Raises
    ------
    ValueError
        If ``seed`` or ``index`` is no integer in [0, 2**63).
    """
    # Training may ask for a sample inside its own autocast; that must not change the sample.
    with torch.autocast(torch.device(device).type, enabled=False):
        shape = (config.side,) * 3
        ensemble = sample_ensemble(config.ensemble, shape, len(bank), sample_generator(seed, index, "ensemble"))
        labels = render_ensemble(ensemble, bank, device)
        looks = [
            sample_appearance(config.appearance, ensemble.label_count, sample_generator(seed, index, purpose))
            for purpose in ("view 1", "view 2")
        ]
        views = torch.stack([apply_appearance(labels, look) for look in looks])
        variation = sample_online(config.online, sample_generator(seed, index, "online"))
        if variation is not None:
            labels, views = apply_online(labels, views, variation)
        return Pair(labels, views)
