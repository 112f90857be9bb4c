"""Targets of the non-contrastive objectives: clean views (App. B.7) and classes of organs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.errors import InputError
from pretraining.engine.appearance import min_max
from pretraining.engine.ensemble import Ensemble
from pretraining.engine.geometry import apply_geometry
from pretraining.engine.mixture import apply_mixture
from pretraining.engine.synthesis import EngineConfig, Pair, augment, draw_augmentation, draw_sample, render


class CleanPair(NamedTuple):
    """One sample with clean views as targets."""

    labels: Tensor
    """(X, Y, Z) uint8."""
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""
    clean: Tensor
    """(2, X, Y, Z) float32 in [0, 1]: Gaussian mixture of each view without texture and artefacts,
    with the same flips and affine map.
    """


@torch.no_grad()
def synthesize_with_clean(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> CleanPair:
    """Synthesize sample ``index`` with its clean views.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        device: Device that computes the sample.

    Returns:
        The sample of :func:`pretraining.engine.synthesis.synthesize_pair`, and its clean views.

    Notes:
        The parameters of a mixture include the seed of its noise, so applying it again gives the
        same intensities, before texture and artefacts.
    """
    params = draw_sample(bank, config, seed=seed, index=index)
    with torch.autocast(torch.device(device).type, enabled=False):
        stored = render(params, bank, device)
        mixtures = [apply_mixture(stored.labels, view.mixture) for view in params.views]
        clean = torch.stack([min_max(intensities.clamp_min_(0)) for intensities in mixtures])
        augmentation = draw_augmentation(config.online, seed=seed, draw=index)
        if augmentation is not None:
            clean = apply_geometry(stored.labels, clean, augmentation.geometry)[1]
        return CleanPair(*augment(stored, config.online, seed=seed, draw=index), clean)


BACKGROUND, INSIDE, ENVELOPE, OTHER = range(4)
"""Classes that are not a kind of organ: background, inside of the foreground mask, its envelope,
and organs of rare kinds.
"""


def class_count(kinds: int) -> int:
    """Return the number of classes if the ``kinds`` most frequent kinds of organ have one each."""
    return OTHER + 1 + kinds


def synthesize_classes(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, kinds: int, device: torch.device | str = "cpu"
) -> Pair:
    """Synthesize sample ``index`` with classes of organs as labels.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        kinds: Number of the most frequent kinds of organ that have a class each.
        device: Device that computes the sample.

    Returns:
        The sample of :func:`pretraining.engine.synthesis.synthesize_pair`, with a class in place of
        each label.

    Raises:
        InputError: If ``config`` uses other label models than label ensembles, as only these have
            known organs.
    """
    params = draw_sample(bank, config, seed=seed, index=index)
    if config.labels.smshapes or config.labels.anatomy or not isinstance(params.labels, Ensemble):
        raise InputError(
            "classes are known for label ensembles only; set engine.labels.smshapes and engine.labels.anatomy to 0"
        )
    organs = [bank.entry(i).organ for i in params.labels.templates]
    table = torch.tensor(classes_of(params.labels, organs, frequent_kinds(bank)[:kinds]))
    pair = augment(render(params, bank, device), config.online, seed=seed, draw=index)
    classes = table.to(torch.uint8).to(pair.labels.device).index_select(0, pair.labels.flatten().int())
    return Pair(classes.view(pair.labels.shape), pair.views)


def classes_of(ensemble: Ensemble, organs: Sequence[str], kinds: Sequence[str]) -> list[int]:
    """Return the class of each label of an ensemble, from label 0 on.

    Args:
        ensemble: Parameters of the label map.
        organs: Kind of organ of each of the ensemble's templates.
        kinds: Kinds of organ that have a class each, in order.
    """
    organ_classes = [OTHER + 1 + kinds.index(organ) if organ in kinds else OTHER for organ in organs]
    if ensemble.foreground is None:
        return [BACKGROUND, *organ_classes]
    envelope = [] if ensemble.foreground.envelope_radius_vox is None else [ENVELOPE]
    return [BACKGROUND, INSIDE, *organ_classes, *envelope]


def frequent_kinds(bank: TemplateBank) -> tuple[str, ...]:
    """Return the kinds of organ in a bank, by frequency, then by name; cached with the bank."""
    return bank.cached(_frequent_kinds)


def _frequent_kinds(bank: TemplateBank) -> tuple[str, ...]:
    counts = Counter(entry.organ for entry in bank.entries())
    return tuple(sorted(counts, key=lambda kind: (-counts[kind], kind)))
