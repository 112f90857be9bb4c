"""Figure 2: organ templates in, one label map and two views of it out.

A sample is made in three steps. :func:`draw_sample` draws every parameter, :func:`render` turns
them into volumes and draws nothing, and :func:`vary` applies the online augmentation. A sample is a
pure function of (bank, config, seed, index).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import sample_generator
from pretraining.engine.anatomy import AnatomyConfig, eligible_subjects
from pretraining.engine.appearance import Appearance, AppearanceConfig, apply_appearances, sample_appearance
from pretraining.engine.ensemble import EnsembleConfig
from pretraining.engine.execution import one_thread
from pretraining.engine.label_models import LABEL_MODELS, Drawn, LabelModelConfig, choose_label_model
from pretraining.engine.online import Online, OnlineConfig, apply_online, sample_online
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
            raise ValueError(
                f"side must be a positive multiple of 16, as the backbone halves it four times, got {self.side}"
            )


class StoredPair(NamedTuple):
    """One sample as the paper keeps it on disk: before the online set."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background."""
    views: Tensor
    """(2, X, Y, Z) uint8; 255 stands for 1."""


class Pair(NamedTuple):
    """One sample as training sees it."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background. To index with it, convert it first: PyTorch takes uint8 for
    a mask.
    """
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""


class SampleDraw(NamedTuple):
    """All random parameters of one stored sample."""

    label_model: str
    """A key of :data:`~pretraining.engine.label_models.LABEL_MODELS`."""
    labels: Drawn
    """Parameters of the label map (Fig. 2A)."""
    views: tuple[Appearance, Appearance]
    """Parameters of each view (Fig. 2B)."""


def synthesize_pair(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> Pair:
    """Make sample ``index`` of the data set that (bank, config, seed) define.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        device: Where the sample is made. The noise differs between types of device.

    Returns:
        The sample, on ``device``. It equals :func:`vary` of the stored sample, whether that was
        kept in memory or on disk. No global random state is read or changed, the number of threads
        does not matter, and a CUDA device is never waited for.

    Raises:
        ValueError: If ``seed`` or ``index`` is out of range.
    """
    return vary(
        synthesize_stored(bank, config, seed=seed, index=index, device=device), config.online, seed=seed, draw=index
    )


def synthesize_stored(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> StoredPair:
    """Make sample ``index`` as the paper stores it, before the online augmentation; arguments as for :func:`synthesize_pair`."""
    return render(draw_sample(bank, config, seed=seed, index=index), bank, device)


def check_bank(bank: TemplateBank, config: EngineConfig) -> None:
    """Check that a bank can serve ``config`` before the first sample is needed, which may be hours later in another process.

    Raises:
        InputError: If whole subjects are to be drawn and no subject of the bank has enough organs.
    """
    if config.labels.anatomy > 0:
        eligible_subjects(bank, config.anatomy)


def draw_sample(bank: TemplateBank, config: EngineConfig, *, seed: int, index: int) -> SampleDraw:
    """Draw the parameters of sample ``index``; see :func:`synthesize_pair` for the arguments.

    Each part has a random stream of its own, so that drawing more for one part changes no other. A
    label model's name is also the name of its stream: a mixture of models takes its samples from
    the data sets of the single models.
    """
    label_model = choose_label_model(config.labels, sample_generator(seed, index, "label model"))
    sample = LABEL_MODELS[label_model].sample
    labels = sample(getattr(config, label_model), (config.side,) * 3, bank, sample_generator(seed, index, label_model))
    view1, view2 = (
        sample_appearance(config.appearance, labels.label_count, sample_generator(seed, index, stream))
        for stream in ("view 1", "view 2")
    )
    return SampleDraw(label_model, labels, (view1, view2))


def draw_variation(config: OnlineConfig, *, seed: int, draw: int) -> Online | None:
    """Draw the online augmentation number ``draw``; None where ``config`` disables it."""
    return sample_online(config, sample_generator(seed, draw, "online"))


@one_thread()
@torch.no_grad()
def render(drawn: SampleDraw, bank: TemplateBank, device: torch.device | str = "cpu") -> StoredPair:
    """Turn parameters into a label map (Fig. 2A) and two views of it (Fig. 2B).

    Args:
        drawn: From :func:`draw_sample`.
        bank: The templates that ``drawn`` refers to.
        device: Where to compute.

    Returns:
        The stored sample, on ``device``.
    """
    with torch.autocast(torch.device(device).type, enabled=False):  # the caller's autocast must not change the sample
        labels = LABEL_MODELS[drawn.label_model].render(drawn.labels, bank, device)
        return StoredPair(labels, _to_bytes(apply_appearances(labels, drawn.views)))


@one_thread()
@torch.no_grad()
def vary(stored: StoredPair, config: OnlineConfig, *, seed: int, draw: int) -> Pair:
    """Apply the online augmentation (Fig. 12, red boxes) to a stored sample, on its device.

    Args:
        stored: From :func:`render` or from disk.
        config: Probabilities and ranges.
        seed: Seed of the data set, in [0, 2**63).
        draw: Number of this use of a stored sample, in [0, 2**63). Each number gives another
            augmentation.

    Raises:
        ValueError: If ``seed`` or ``draw`` is out of range.
    """
    labels, views = stored
    with torch.autocast(labels.device.type, enabled=False):
        variation = draw_variation(config, seed=seed, draw=draw)
        return Pair(labels, views / 255) if variation is None else Pair(*apply_online(labels, views, variation))


def _to_bytes(views: Tensor) -> Tensor:
    return views.mul(255).round_().to(torch.uint8)
