"""Test that every preset learns, at reduced size: few channels and voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNetConfig
from pretraining.bank.template_bank import TemplateBank
from pretraining.learning.objectives.choice import compute_losses, make_objective, sample_maker, total_loss
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset, preset_names
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.engine.subjects import bank_of_subjects, body

STEPS, FIXED = 60, range(1000, 1004)
RATE = 1e-3
"""Learning rate for 60 steps and 8 channels; the presets' rates are for thousands of steps."""


@pytest.fixture(scope="module")
def banks() -> dict[bool, TemplateBank]:
    """Return banks of single shapes (False) and of whole subjects (True)."""
    subjects = {("bodies", "a"): body(7), ("bodies", "b"): body(5, seed=1), ("bodies", "c"): body(6, seed=2)}
    return {False: procedural_bank(16), True: bank_of_subjects(subjects)}


def in_small(name: str, banks: dict[bool, TemplateBank]) -> tuple[TrainConfig, nn.Module, Callable[[int], Any]]:
    """Return configuration, model and sample function of a preset at reduced size."""
    config = load_preset(TrainConfig, name)
    contrastive = config.objective.contrastive
    shift = min(contrastive.max_shift_vox, 8)
    objective = replace(
        config.objective,
        contrastive=replace(contrastive, max_shift_vox=shift),
        projection=replace(config.objective.projection, width=64),
    )
    engine = replace(config.engine, side=32 if shift else 16)
    model = build(lambda: make_objective(objective, UNetConfig(width=8, poolings=3)), torch.Generator().manual_seed(0))
    make = sample_maker(config.objective)
    return config, model, lambda index: make(banks[engine.labels.anatomy > 0], engine, seed=0, index=index)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_step(name, banks):
    _, model, sample = in_small(name, banks)
    loss = total_loss(model, compute_losses(model, sample(0), 0, 0))
    loss.backward()
    assert loss.isfinite() and all(parameter.grad.isfinite().all() for parameter in model.backbone.parameters())


@pytest.mark.slow  # tests/pretraining/learning/objectives shows that each objective learns
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_learns(name, banks):
    config, model, sample_at = in_small(name, banks)
    fixed = {index: sample_at(index) for index in FIXED}

    def loss() -> float:
        with torch.no_grad():
            return sum(
                total_loss(model, compute_losses(model, sample, index, 0)).item() for index, sample in fixed.items()
            ) / len(fixed)

    before = loss()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(config.optimizer.beta1, config.optimizer.beta2), weight_decay=0.0
    )
    for index in range(STEPS):
        total_loss(model, compute_losses(model, sample_at(index), index, 0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss() < before
