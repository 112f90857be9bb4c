"""Test that a sweep trains and evaluates every variant once, and reports invalid input."""

from __future__ import annotations

import json

import pytest

from pretraining.backbone.unet import UNetConfig
from pretraining.common.errors import CommandFailed, Diverged, InputError
from pretraining.common.lock import hold_lock
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.train_config import TrainConfig
from pretraining.probing import sweep as sweep_module
from pretraining.probing.sweep import read_variants, sweep
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.probing.aligned_folders import brain_folder

BASE = TrainConfig(
    validation_pairs=1,
    backbone=UNetConfig(width=2, poolings=2),
    objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=16), projection=ProjectionConfig(width=8)),
    engine=EngineConfig(side=16),
)


@pytest.fixture
def brain(tmp_path, small_judged_samples):
    brain_folder(tmp_path / "brain")
    return tmp_path / "brain"


def test_every_variant_is_trained_once_and_ranked(tmp_path, brain):
    (tmp_path / "variants.json").write_text(json.dumps({"as it is": {}, "averaged": {"average_decay": 0.9}}))
    variants = read_variants(tmp_path / "variants.json", BASE)
    assert variants["as it is"] == BASE and variants["averaged"].average_decay == 0.9
    folder = tmp_path / "sweep"
    # Long enough for a step on a busy machine, the first of which compiles.
    table = sweep(variants, procedural_bank(8), brain, folder, minutes=0.05, device="cpu")
    assert {line.split("|")[1].strip() for line in table.splitlines()[2:]} == set(variants)
    means = [float(line.split("|")[-2]) for line in table.splitlines()[2:]]
    assert means == sorted(means, reverse=True) and min(means) >= 0 and max(means) <= 1
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint.pt")}
    assert len(stamps) == 2
    assert sweep(variants, procedural_bank(8), brain, folder, minutes=0.05, device="cpu") == table
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint.pt")}


def test_a_variant_that_fails_or_is_anothers_does_not_stop_the_others(tmp_path, brain, monkeypatch):
    folder = tmp_path / "sweep"
    trained = []

    def stand_in(run, config, *_, **__):
        trained.append(run.parent.name)
        if "bad" in run.parts[-2]:
            raise Diverged("the loss is not finite")
        return train(run, config, *_, **__)

    train = sweep_module.train
    monkeypatch.setattr(sweep_module, "train", stand_in)
    variants = dict.fromkeys(("bad", "theirs", "good"), BASE)
    with (
        hold_lock(folder / "theirs"),
        pytest.raises(CommandFailed, match=r"1 of 3 variants failed .*: bad: the loss is not finite"),
    ):
        sweep(variants, procedural_bank(8), brain, folder, minutes=0.01, device="cpu")
    assert (
        trained == ["bad", "good"]
        and "bad," in (folder / "failed.csv").read_text()
        and "good" in (folder / "table.md").read_text()
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": 3}', '{"a": {"stepz": 3}}'])
def test_wrong_variants_are_refused(tmp_path, text):
    (tmp_path / "variants.json").write_text(text)
    with pytest.raises(InputError, match=r"expected JSON|stepz"):
        read_variants(tmp_path / "variants.json", BASE)
