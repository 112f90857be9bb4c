"""Targets for objectives without contrast: clean views to restore (App. B.7), and kinds of organ to segment."""

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
from pretraining.engine.synthesis import EngineConfig, Pair, draw_sample, draw_variation, render, vary


class CleanPair(NamedTuple):
    """One sample with its targets."""

    labels: Tensor
    """(X, Y, Z) uint8."""
    views: Tensor
    """(2, X, Y, Z) float32 in [0, 1]."""
    clean: Tensor
    """(2, X, Y, Z) float32 in [0, 1]: each view's Gaussian mixture alone, flipped and mapped as the
    view was.
    """


@torch.no_grad()
def synthesize_with_clean(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, device: torch.device | str = "cpu"
) -> CleanPair:
    """Make sample ``index`` as :func:`pretraining.engine.synthesis.synthesize_pair` does, with its clean views.

    Notes:
        The noise of a mixture follows from a drawn seed, so rendering the same draw again gives the
        mixture under the artefacts.
    """
    drawn = draw_sample(bank, config, seed=seed, index=index)
    with torch.autocast(torch.device(device).type, enabled=False):
        stored = render(drawn, bank, device)
        clean = torch.stack([min_max(apply_mixture(stored.labels, view.mixture).clamp_min_(0)) for view in drawn.views])
        variation = draw_variation(config.online, seed=seed, draw=index)
        if variation is not None:
            clean = apply_geometry(stored.labels, clean, variation.geometry)[1]
        return CleanPair(*vary(stored, config.online, seed=seed, draw=index), clean)


BACKGROUND, INSIDE, ENVELOPE, OTHER = range(4)
"""Classes of their own: nothing, the foreground mask where no organ is, its envelope, and organs of
rare kinds.
"""


def class_count(kinds: int) -> int:
    """Classes where the ``kinds`` most frequent kinds of organ have one each."""
    return OTHER + 1 + kinds


def synthesize_classes(
    bank: TemplateBank, config: EngineConfig, *, seed: int, index: int, kinds: int, device: torch.device | str = "cpu"
) -> Pair:
    """Make sample ``index`` as :func:`pretraining.engine.synthesis.synthesize_pair` does, with classes as labels.

    Args:
        bank: Organ templates.
        config: Settings of the engine.
        seed: Seed of the data set, in [0, 2**63).
        index: Number of the sample, in [0, 2**63).
        kinds: The most frequent ``kinds`` kinds of organ in the bank have a class each.
        device: Where the sample is made.

    Raises:
        InputError: If some labels do not come from label ensembles. Other label models have no
            templates.
    """
    drawn = draw_sample(bank, config, seed=seed, index=index)
    if config.labels.smshapes or config.labels.anatomy or not isinstance(drawn.labels, Ensemble):
        raise InputError(
            "classes are known of label ensembles only; set engine.labels.smshapes and engine.labels.anatomy to 0"
        )
    organs = [bank.entry(i).organ for i in drawn.labels.templates]
    table = torch.tensor(classes_of(drawn.labels, organs, frequent_kinds(bank)[:kinds]))
    pair = vary(render(drawn, bank, device), config.online, seed=seed, draw=index)
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
