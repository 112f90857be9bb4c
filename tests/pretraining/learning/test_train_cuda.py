"""Test on a GPU that steps do not synchronize, and that the wall time holds anyway."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import count

import pytest
import torch

import pretraining.learning.train as train_module
from pretraining.backbone.unet import UNetConfig
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.schedule import OptimizerConfig
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.samples.store import open_store
from pretraining.samples.synthesize import Request, synthesize
from pretraining.templates.procedural import procedural_bank

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ENGINE = EngineConfig(side=32)
SMALL = TrainConfig(
    steps=12,
    log_every=5,
    validate_every=6,
    validation_pairs=1,
    save_every=100,
    backbone=UNetConfig(width=8, poolings=2),
    objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=64), projection=ProjectionConfig(width=16)),
    optimizer=OptimizerConfig(rate=1e-3, schedule="cosine", max_gradient_norm=1.0),
    engine=ENGINE,
)
WARM_STEPS = 2
"""Number of first steps that may synchronize: they compile and measure kernels, and take memory."""


@pytest.fixture
def no_waiting(monkeypatch):
    """Let PyTorch raise at any synchronization in a step; return the list of checked steps."""
    step, number, watched = train_module.training_step, count(), []

    def watched_step(*arguments):
        if next(number) < WARM_STEPS:
            return step(*arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        watched.append(torch.backends.cudnn.benchmark)

    monkeypatch.setattr(train_module, "training_step", watched_step)
    return watched


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({}, 0),
        ({}, 2),
        ({"label_maps": 2}, 0),
        ({"average_decay": 0.9}, 0),
        ({"freeze_statistics_after": 0.5}, 0),
        ({"precision": "fp32", "channels_last": False}, 0),
    ],
    ids=["plain", "workers", "label maps", "average", "frozen", "fp32"],
)
def test_the_host_waits_for_nothing_in_a_step(tmp_path, no_waiting, changes, workers):
    before = torch.backends.cudnn.benchmark
    last = train(tmp_path, replace(SMALL, **changes), procedural_bank(16), device="cuda", workers=workers)
    assert last.step == SMALL.steps and last.validation_loss is not None
    assert no_waiting == [True] * (SMALL.steps - WARM_STEPS), "steps were watched, with cuDNN measuring its kernels"
    assert torch.backends.cudnn.benchmark == before
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any(record.get("noise_scale", -1) >= 0 for record in records)


@pytest.mark.parametrize("workers", [0, 2])
def test_nor_with_a_store(tmp_path, no_waiting, workers):
    synthesize(Request(bank=procedural_bank(16), engine=ENGINE, count=6), tmp_path / "store")
    train(tmp_path / "run", SMALL, open_store(tmp_path / "store"), device="cuda", workers=workers)
    assert len(no_waiting) == SMALL.steps - WARM_STEPS


def test_nor_by_the_clock(tmp_path, no_waiting):
    train(tmp_path, SMALL, procedural_bank(16), minutes=0.1, device="cuda", workers=0)
    assert no_waiting


def test_minutes_hold_although_the_host_is_ahead(tmp_path):
    train(tmp_path / "warm", replace(SMALL, steps=2), procedural_bank(16), device="cuda", workers=0)
    began = time.monotonic()
    last = train(tmp_path / "run", SMALL, procedural_bank(16), minutes=0.25, device="cuda", workers=0)
    assert 10 < last.seconds <= 15.5 and time.monotonic() - began < 20
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["rate"] for record in records if "rate" in record][-1] < 0.02 * SMALL.optimizer.rate


@pytest.mark.slow
def test_a_compiled_training_learns_the_same(tmp_path):
    bank = procedural_bank(16)
    plain, compiled = (
        train(tmp_path / str(chosen), replace(SMALL, precision="fp32", compile=chosen), bank, device="cuda")
        for chosen in (False, True)
    )
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=0.02)
    assert compiled.model.keys() == plain.model.keys()
