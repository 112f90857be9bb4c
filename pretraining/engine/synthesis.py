"""The whole of Figure 2: organ templates in, one label ensemble and two views of it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.engine.anatomy import AnatomyConfig, eligible_subjects
from pretraining.engine.appearance import AppearanceConfig, apply_appearances, sample_appearance
from pretraining.engine.ensemble import EnsembleConfig
from pretraining.engine.execution import one_thread
from pretraining.engine.label_models import LABEL_MODELS, LabelModelConfig, choose_label_model
from pretraining.engine.online import OnlineConfig, apply_online, sample_online
from pretraining.engine.smshapes import SmShapesConfig


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The data engine: everything about a sample but the templates and the seed."""

    side: int = 128
    """Of the cubic volumes, voxels; divisible by 16."""
    labels: LabelModelConfig = field(default_factory=LabelModelConfig)
    """Which label model makes what share of the samples; by default all are label ensembles."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Fig. 2A."""
    smshapes: SmShapesConfig = field(default_factory=SmShapesConfig)
    """App. B.6; of no effect where its share is 0."""
    anatomy: AnatomyConfig = field(default_factory=AnatomyConfig)
    """App. B.6, ``Brains``; of no effect where its share is 0."""
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    """Fig. 2B, drawn once for each view."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """What the paper draws again at every use of a stored sample."""

    def __post_init__(self) -> None:
        if self.side < 16 or self.side % 16:
            raise ValueError(f"side must be a positive multiple of 16, as the backbone halves it four times, got {self.side}")


class StoredPair(NamedTuple):
    """One sample as the paper keeps it on disk: before the online set."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background."""
    views: Tensor
    """(2, X, Y, Z) uint8; 255 stands for 1."""


class Pair(NamedTuple):
    """One sample as training sees it."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background. To index with it, convert it first: PyTorch takes uint8 for a mask."""
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""


def synthesize_pair(bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu") -> Pair:
    """Make sample ``index`` of the data set that (bank, config, seed) define.

    The sample is a pure function of the arguments on a given device type: no global random state is read or changed, the number of
    threads does not matter, and on CUDA the host never waits for the device. It equals :func:`vary` of the stored sample, read back
    from disk or not.

    Raises
    ------
    ValueError
        If ``seed`` or ``index`` is no integer in [0, 2**63).
    """
    return vary(synthesize_stored(bank, config, seed=seed, index=index, device=device), config.online, seed=seed, draw=index)


def check_bank(bank: TemplateBank, config: EngineConfig) -> None:
    """Refuse a bank that cannot serve ``config`` before the first sample is asked for, which may be hours later in another process.

    Raises
    ------
    InputError
        If real label maps are to be drawn and no subject of the bank has enough organs.
    """
    if config.labels.anatomy > 0:
        eligible_subjects(bank, config.anatomy)


@one_thread()
@torch.no_grad()
def synthesize_stored(bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu") -> StoredPair:
    """Make sample ``index`` up to where the paper stores it: labels (Fig. 2A) and two views of them (Fig. 2B).

    Raises
    ------
    ValueError
        If ``seed`` or ``index`` is no integer in [0, 2**63).
    """
    # Training may ask for a sample inside its own autocast; that must not change the sample.
    with torch.autocast(torch.device(device).type, enabled=False):
        # A model's name is also the purpose of its draws: a mixture takes its samples from the models' own data sets.
        name = choose_label_model(config.labels, sample_generator(seed, index, "label model"))
        model = LABEL_MODELS[name]
        drawn = model.sample(getattr(config, name), (config.side,) * 3, bank, sample_generator(seed, index, name))
        labels = model.render(drawn, bank, device)
        looks = [
            sample_appearance(config.appearance, drawn.label_count, sample_generator(seed, index, purpose))
            for purpose in ("view 1", "view 2")
        ]
        return StoredPair(labels, _to_bytes(apply_appearances(labels, looks)))


@one_thread()
@torch.no_grad()
def vary(stored: StoredPair, config: OnlineConfig, *, seed: int, draw: int) -> Pair:
    """Vary a stored sample by the online set (Fig. 12, red boxes), on its device.

    Parameters
    ----------
    stored : from :func:`synthesize_stored` or from disk.
    draw : which of the many uses of stored samples this is, in [0, 2**63); with every draw the variation is another one.

    Raises
    ------
    ValueError
        If ``seed`` or ``draw`` is no integer in [0, 2**63).
    """
    labels, views = stored
    with torch.autocast(labels.device.type, enabled=False):
        variation = sample_online(config, sample_generator(seed, draw, "online"))
        return Pair(labels, views / 255) if variation is None else Pair(*apply_online(labels, views, variation))


def _to_bytes(views: Tensor) -> Tensor:
    return views.mul(255).round_().to(torch.uint8)
