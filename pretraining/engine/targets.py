"""Views beside what they were before texture and artefacts: what denoising pretraining should restore (App. B.7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.engine.appearance import min_max, sample_appearance
from pretraining.engine.ensemble import Ensemble, sample_ensemble
from pretraining.engine.geometry import apply_geometry
from pretraining.engine.label_models import LABEL_MODELS, choose_label_model
from pretraining.engine.mixture import apply_mixture
from pretraining.engine.online import sample_online
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair, synthesize_stored, vary


class CleanPair(NamedTuple):
    """One sample with its targets."""

    labels: Tensor
    """(X, Y, Z) uint8."""
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""
    clean: Tensor
    """(2, X, Y, Z) float32 in [0, 1]: each view's Gaussian mixture alone, flipped and mapped as the view was."""


@torch.no_grad()
def synthesize_with_clean(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> CleanPair:
    """Sample ``index`` as :func:`pretraining.engine.synthesis.synthesize_pair` makes it, and its mixtures once more.

    Notes
    -----
    A mixture's noise follows from a drawn seed: drawn and rendered again, it is the one under the view's artefacts.
    """
    with torch.autocast(torch.device(device).type, enabled=False):
        stored = synthesize_stored(bank, config, seed=seed, index=index, device=device)
        name = choose_label_model(config.labels, sample_generator(seed, index, "label model"))
        drawn = LABEL_MODELS[name].sample(getattr(config, name), (config.side,) * 3, bank, sample_generator(seed, index, name))
        mixtures = [
            sample_appearance(config.appearance, drawn.label_count, sample_generator(seed, index, purpose)).mixture
            for purpose in ("view 1", "view 2")
        ]
        clean = torch.stack([min_max(apply_mixture(stored.labels, mixture).clamp_min_(0)) for mixture in mixtures])
        variation = sample_online(config.online, sample_generator(seed, index, "online"))
        if variation is not None:
            clean = apply_geometry(stored.labels, clean, variation.geometry)[1]
        return CleanPair(*vary(stored, config.online, seed=seed, draw=index), clean)


BACKGROUND, INSIDE, ENVELOPE, OTHER = range(4)
"""Classes of their own: nothing, the foreground mask where no organ is, its envelope, and organs of rare kinds."""


def class_count(kinds: int) -> int:
    """Classes where the ``kinds`` most frequent kinds of organ have one each."""
    return OTHER + 1 + kinds


def synthesize_classes(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, kinds: int, device: torch.device | str = "cpu"
) -> Pair:
    """Sample ``index`` as :func:`pretraining.engine.synthesis.synthesize_pair` makes it, with classes for labels.

    Parameters
    ----------
    kinds : how many kinds of organ have a class of their own, the most frequent ones of the bank.

    Raises
    ------
    InputError
        If labels don't all come from label ensembles: other models have no templates.
    """
    if config.labels.smshapes or config.labels.anatomy:
        raise InputError("classes are known of label ensembles only; set engine.labels.smshapes and engine.labels.anatomy to 0")
    ensemble = sample_ensemble(config.ensemble, (config.side,) * 3, bank, sample_generator(seed, index, "ensemble"))
    table = torch.tensor(classes_of(ensemble, [bank.entry(i).organ for i in ensemble.templates], frequent_kinds(bank)[:kinds]))
    pair = synthesize_pair(bank, config, seed=seed, index=index, device=device)
    classes = table.to(torch.uint8).to(pair.labels.device).index_select(0, pair.labels.flatten().int())
    return Pair(classes.view(pair.labels.shape), pair.views)


def classes_of(ensemble: Ensemble, organs: Sequence[str], kinds: Sequence[str]) -> list[int]:
    """Class of each label, from 0 on; ``organs`` are those of the ensemble's templates."""
    own = [OTHER + 1 + kinds.index(organ) if organ in kinds else OTHER for organ in organs]
    if ensemble.foreground is None:
        return [BACKGROUND, *own]
    envelope = [] if ensemble.foreground.envelope_radius_vox is None else [ENVELOPE]
    return [BACKGROUND, INSIDE, *own, *envelope]


def frequent_kinds(bank: TemplateBank) -> tuple[str, ...]:
    """Kinds of organ in a bank, the most frequent first, then by name; counted once a bank."""
    return bank.cached(_frequent_kinds)


def _frequent_kinds(bank: TemplateBank) -> tuple[str, ...]:
    counts = Counter(entry.organ for entry in bank.entries())
    return tuple(sorted(counts, key=lambda kind: (-counts[kind], kind)))
