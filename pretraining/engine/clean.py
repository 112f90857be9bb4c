"""Views beside what they were before texture and artefacts: what denoising pretraining should restore (App. B.7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pretraining.engine.appearance import min_max, sample_appearance
from pretraining.engine.geometry import apply_geometry
from pretraining.engine.label_models import LABEL_MODELS, choose_label_model
from pretraining.engine.mixture import apply_mixture
from pretraining.engine.online import sample_online
from pretraining.engine.seeds import sample_generator
from pretraining.engine.synthesis import EngineConfig, synthesize_stored, vary
from pretraining.engine.templates import TemplateBank


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
