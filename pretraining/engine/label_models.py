"""Where labels come from: the paper's label ensembles, its alternatives (App. B.6), or a mixture of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.checks import check_not_negative
from pretraining.common.errors import InputError
from pretraining.common.random import weighted_choice
from pretraining.engine.anatomy import Anatomy, render_anatomy, sample_anatomy
from pretraining.engine.ensemble import Ensemble, render_ensemble, sample_ensemble
from pretraining.engine.smshapes import SmShapes, render_smshapes, sample_smshapes

Shape = tuple[int, int, int]
Drawn = Ensemble | SmShapes | Anatomy
"""What any label model draws; it has ``label_count``."""


@dataclass(frozen=True, kw_only=True)
class LabelModelConfig:
    """Shares of the label models among samples; they need not add up to 1."""

    ensemble: float = 1.0
    """Label ensembles (Algorithm 1)."""
    smshapes: float = 0.0
    """Shapes without biomedical prior."""
    anatomy: float = 0.0
    """Real label maps: whole subjects of the template bank."""

    def __post_init__(self) -> None:
        shares = asdict(self)
        check_not_negative(**shares)
        if not any(shares.values()):
            raise InputError(f"shares of label models: expected one above 0, found {self}")


class LabelModel(NamedTuple):
    """One way to make labels."""

    sample: Callable[[Any, Shape, TemplateBank, Generator], Drawn]
    """From (its configuration, shape, bank, generator)."""
    render: Callable[[Any, TemplateBank, torch.device | str], Tensor]
    """From (what was drawn, bank, device) to (X, Y, Z) uint8, 0 is background."""


LABEL_MODELS = {
    "ensemble": LabelModel(sample_ensemble, render_ensemble),
    "smshapes": LabelModel(
        lambda config, shape, bank, generator: sample_smshapes(config, shape, generator),
        lambda params, bank, device: render_smshapes(params, device),
    ),
    "anatomy": LabelModel(sample_anatomy, render_anatomy),
}
"""Each is a field of :class:`LabelModelConfig` and, with its settings, of the engine's
configuration.
"""


def choose_label_model(config: LabelModelConfig, generator: Generator) -> str:
    """Draw the name of a label model, each with its share."""
    shares = {name: share for name, share in asdict(config).items() if share > 0}
    return list(shares)[weighted_choice(list(shares.values()), generator)]
