"""Test that compilation changes neither the training nor its files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pretraining.backbone.unet import UNetConfig
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.checkpoint import load_checkpoint
from pretraining.learning.export import export_run
from pretraining.learning.train import train
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.learning.test_train import TINY

SMALL = replace(TINY, steps=3, precision="fp32", average_decay=0.5)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def test_the_graph_is_whole_and_nothing_else_changes(tmp_path, monkeypatch):
    """Use the compiler's front end alone, which is fast: the captured graph runs eagerly."""
    asked = []
    compile_ = torch.compile

    def front_end(function, **options):
        asked.append(options)
        return compile_(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", front_end)
    bank = procedural_bank(8)
    train(tmp_path / "plain", SMALL, bank, device="cpu", workers=0)
    assert not asked
    train(tmp_path / "compiled", replace(SMALL, compile=True), bank, device="cpu", workers=0)
    assert asked and all(options == {"fullgraph": True, "dynamic": False} for options in asked)
    plain, compiled = (load_checkpoint(tmp_path / run / "checkpoint.pt") for run in ("plain", "compiled"))
    for found, expected in ((compiled.model, plain.model), (compiled.average, plain.average)):
        assert found.keys() == expected.keys()
        for name in expected:
            if "backbone" in name and "weight" in name:  # they have moved by up to 6e-4
                torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-6)
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=1e-4), "that of the average"
    assert not any("_orig_mod" in name for name in (*compiled.model, *compiled.average))
    export_run(tmp_path / "compiled", tmp_path / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_steps_agree_within_rounding(tmp_path):
    bank = procedural_bank(8)
    config = replace(
        SMALL, steps=2, average_decay=0.0, backbone=UNetConfig(width=2, poolings=1), engine=EngineConfig(side=16)
    )
    plain = train(tmp_path / "plain", config, bank, device="cpu", workers=0)
    compiled = train(tmp_path / "compiled", replace(config, compile=True), bank, device="cpu", workers=0)
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=1e-3)
    assert plain.model.keys() == compiled.model.keys()
    torch.testing.assert_close(
        compiled.model["backbone.stem.conv.weight"], plain.model["backbone.stem.conv.weight"], rtol=0.01, atol=1e-3
    )
