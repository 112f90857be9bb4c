"""Classes in place of instances: which kind of organ each label of an ensemble is, for segmentation pretraining.

A label ensemble numbers its templates anew in every sample. What a network can learn to segment is what stays the same: the kind of shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from pretraining.engine.ensemble import Ensemble, sample_ensemble
from pretraining.engine.seeds import sample_generator
from pretraining.engine.synthesis import EngineConfig, Pair, synthesize_pair
from pretraining.engine.templates import TemplateBank
from pretraining.errors import InputError

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
    return bank.derived(_frequent_kinds)


def _frequent_kinds(bank: TemplateBank) -> tuple[str, ...]:
    counts = Counter(entry.organ for entry in bank.entries())
    return tuple(sorted(counts, key=lambda kind: (-counts[kind], kind)))
