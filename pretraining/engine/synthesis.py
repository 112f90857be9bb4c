"""Figure 2 of the paper: from organ templates to one label map and two views of it.

The data flows as in the figure::

    bank of templates
      -> label map        Fig. 2A  label ensemble: deformed templates, foreground, envelope
      -> view 1, view 2   Fig. 2B  appearance model: Gaussian mixture, texture, artefacts
      -> stored pair               what the paper keeps on disk
      -> pair             Fig. 12  online augmentation, drawn again at every use

:func:`draw_sample` draws the parameters of both models, :func:`render` computes Fig. 2A and 2B
from them and draws nothing, and :func:`augment` applies the online augmentation. A sample is a pure
function of (bank, config, seed, index).
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
from pretraining.engine.label_models import LABEL_MODELS, LabelDraw, LabelModelConfig, choose_label_model
from pretraining.engine.online import Online, OnlineConfig, apply_online, sample_online
from pretraining.engine.smshapes import SmShapesConfig


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of the data engine: all that defines a sample except the templates and the seed."""

    side: int = 128
    """Side of the cubic volumes, voxels; divisible by 16."""
    labels: LabelModelConfig = field(default_factory=LabelModelConfig)
    """Share of each label model among the samples. Default: label ensembles only."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Label ensembles (Fig. 2A)."""
    smshapes: SmShapesConfig = field(default_factory=SmShapesConfig)
    """Shapes without anatomy (App. B.6); unused where their share is 0."""
    anatomy: AnatomyConfig = field(default_factory=AnatomyConfig)
    """Real label maps (App. B.6, Brains); unused where their share is 0."""
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    """Appearance model (Fig. 2B), drawn once per view."""
    online: OnlineConfig = field(default_factory=OnlineConfig)
    """Online augmentation, drawn again at every use of a stored sample."""

    def __post_init__(self) -> None:
        if self.side < 16 or self.side % 16:
            raise ValueError(
                f"side must be a positive multiple of 16, as the backbone halves it four times, got {self.side}"
            )


class StoredPair(NamedTuple):
    """One sample before the online augmentation, as the paper keeps it on disk."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background."""
    views: Tensor
    """(2, X, Y, Z) uint8; 255 represents intensity 1."""


class Pair(NamedTuple):
    """One sample as training receives it."""

    labels: Tensor
    """(X, Y, Z) uint8, 0 is background. Convert it before indexing with it: PyTorch treats a uint8
    index as a mask.
    """
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""


class SampleDraw(NamedTuple):
    """All random parameters of one stored sample."""

    label_model: str
    """A key of :data:`~pretraining.engine.label_models.LABEL_MODELS`."""
    labels: LabelDraw
    """Parameters of the label map (Fig. 2A)."""
    views: tuple[Appearance, Appearance]
    """Parameters of each view (Fig. 2B)."""


def synthesize_pair(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> Pair:
    """Synthesize sample ``index`` of the data set that (bank, config, seed) define.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        device: Device that computes the sample. The noise differs between types of device.

    Returns:
        The sample, on ``device``. It equals :func:`augment` of the stored sample, whether that was
        kept in memory or on disk.

    Raises:
        ValueError: If ``seed`` or ``index`` is out of range.

    Notes:
        No global random state is read or changed, the number of threads has no effect, and the host
        never waits for a CUDA device.
    """
    stored = synthesize_stored(bank, config, seed=seed, index=index, device=device)
    return augment(stored, config.online, seed=seed, draw=index)


def synthesize_stored(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> StoredPair:
    """Synthesize sample ``index`` as the paper stores it, before the online augmentation.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        device: Device that computes the sample.

    Returns:
        The stored sample, on ``device``.

    Raises:
        ValueError: If ``seed`` or ``index`` is out of range.
    """
    params = draw_sample(bank, config, seed=seed, index=index)
    return render(params, bank, device)


def check_bank(bank: TemplateBank, config: EngineConfig) -> None:
    """Check that a bank can serve ``config``.

    Call it at the start of a job: the first sample may be needed hours later in another process.

    Args:
        bank: Organ templates.
        config: Settings of the engine.

    Raises:
        InputError: If ``config`` uses real label maps and no subject of the bank has enough organs.
    """
    if config.labels.anatomy > 0:
        eligible_subjects(bank, config.anatomy)


def draw_sample(bank: TemplateBank, config: EngineConfig, *, seed: int, index: int) -> SampleDraw:
    """Draw the parameters of sample ``index``: label map and two independent appearances.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).

    Returns:
        All that :func:`render` needs besides the bank.

    Notes:
        Each part has its own random stream, so that drawing more for one part does not change
        another. A label model's name is also the name of its stream: a mixture of models takes its
        samples from the data sets of the single models.
    """
    label_model = choose_label_model(config.labels, sample_generator(seed, index, "label model"))
    sample_labels = LABEL_MODELS[label_model].sample
    shape = (config.side,) * 3
    labels = sample_labels(getattr(config, label_model), shape, bank, sample_generator(seed, index, label_model))
    view1, view2 = (
        sample_appearance(config.appearance, labels.label_count, sample_generator(seed, index, stream))
        for stream in ("view 1", "view 2")
    )
    return SampleDraw(label_model, labels, (view1, view2))


def draw_augmentation(config: OnlineConfig, *, seed: int, draw: int) -> Online | None:
    """Draw the parameters of online augmentation ``draw``; None if ``config`` disables it."""
    return sample_online(config, sample_generator(seed, draw, "online"))


@one_thread()
@torch.no_grad()
def render(params: SampleDraw, bank: TemplateBank, device: torch.device | str = "cpu") -> StoredPair:
    """Compute a label map (Fig. 2A) and two views of it (Fig. 2B) from drawn parameters.

    Args:
        params: Parameters from :func:`draw_sample`.
        bank: Templates that ``params`` refers to.
        device: Device that computes the sample.

    Returns:
        The stored sample, on ``device``.
    """
    render_labels = LABEL_MODELS[params.label_model].render
    with torch.autocast(torch.device(device).type, enabled=False):  # the caller's autocast must not change the sample
        labels = render_labels(params.labels, bank, device)
        views = apply_appearances(labels, params.views)
        return StoredPair(labels, _to_bytes(views))


@one_thread()
@torch.no_grad()
def augment(stored: StoredPair, config: OnlineConfig, *, seed: int, draw: int) -> Pair:
    """Apply the online augmentation (Fig. 12, red boxes) to a stored sample, on its device.

    Args:
        stored: Sample from :func:`render` or from disk.
        config: Probabilities and ranges.
        seed: Seed of the data set, in [0, 2**63).
        draw: Number of this use of a stored sample, in [0, 2**63). Each number gives another
            augmentation.

    Returns:
        The sample for training. Flips and affine maps are shared by labels and views, all other
        changes are drawn per view.

    Raises:
        ValueError: If ``seed`` or ``draw`` is out of range.
    """
    labels, views = stored
    with torch.autocast(labels.device.type, enabled=False):
        params = draw_augmentation(config, seed=seed, draw=draw)
        if params is None:
            return Pair(labels, views / 255)
        return Pair(*apply_online(labels, views, params))


def _to_bytes(views: Tensor) -> Tensor:
    return views.mul(255).round_().to(torch.uint8)
