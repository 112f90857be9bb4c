"""Label models: the paper's label ensembles, its alternatives (App. B.6), or a mixture of them."""

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
LabelDraw = Ensemble | SmShapes | Anatomy
"""Random parameters of any label model; all have ``label_count``."""


@dataclass(frozen=True, kw_only=True)
class LabelModelConfig:
    """Shares of the label models among samples; they need not add up to 1."""

    ensemble: float = 1.0
    """Label ensembles (Algorithm 1)."""
    smshapes: float = 0.0
    """Shapes without anatomy (App. B.6)."""
    anatomy: float = 0.0
    """Real label maps: whole subjects of the template bank (App. B.6)."""

    def __post_init__(self) -> None:
        shares = asdict(self)
        check_not_negative(**shares)
        if not any(shares.values()):
            raise InputError(f"shares of label models: expected at least one above 0, found {self}; set one")


class LabelModel(NamedTuple):
    """Two functions that make a label map."""

    sample: Callable[[Any, Shape, TemplateBank, Generator], LabelDraw]
    """Function (config, shape, bank, generator) -> parameters; draws everything."""
    render: Callable[[Any, TemplateBank, torch.device | str], Tensor]
    """Function (parameters, bank, device) -> (X, Y, Z) uint8, 0 is background; draws nothing."""


LABEL_MODELS = {
    "ensemble": LabelModel(sample_ensemble, render_ensemble),
    "smshapes": LabelModel(
        lambda config, shape, bank, generator: sample_smshapes(config, shape, generator),
        lambda params, bank, device: render_smshapes(params, device),
    ),
    "anatomy": LabelModel(sample_anatomy, render_anatomy),
}
"""Label models by name. Each name is a field of :class:`LabelModelConfig` (its share) and of the
engine's configuration (its settings).
"""


def choose_label_model(config: LabelModelConfig, generator: Generator) -> str:
    """Draw the name of a label model in proportion to the shares."""
    shares = {name: share for name, share in asdict(config).items() if share > 0}
    return list(shares)[weighted_choice(list(shares.values()), generator)]
