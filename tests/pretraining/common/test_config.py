"""Each bundled preset yields samples, and each ablation changes only what its name says."""

import dataclasses

import pytest
import torch

from pretraining.common.config import differences, from_dict
from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.engine.appearance import sample_appearance
from pretraining.engine.synthesis import EngineConfig, synthesize_pair, synthesize_stored
from pretraining.learning.schedule import OptimizerConfig
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset, preset_names
from tests.pretraining.engine.subjects import bank_of_subjects, body

ABLATIONS = [name for name in preset_names() if name.startswith("paper_")]


@pytest.fixture(scope="module")
def bank():
    return bank_of_subjects({("bodies", "a"): body(7), ("bodies", "b"): body(5, seed=1)})


def engine_of(name: str) -> EngineConfig:
    return dataclasses.replace(load_preset(TrainConfig, name).engine, side=32)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_samples(bank, name):
    for index in range(3):
        pair = synthesize_pair(bank, engine_of(name), seed=0, index=index)
        assert pair.labels.any() and len(pair.labels.unique()) > 1
        assert pair.views.min() >= 0 and pair.views.max() <= 1 and (pair.views.flatten(1).std(1) > 0.01).all()


def test_there_is_a_preset_for_every_row_of_table_3():
    rows = {"smshapes", "brains", "ours_and_brains", "no_foreground", "no_offline_artefacts", "no_artefacts"}
    assert {name.removeprefix("paper_") for name in ABLATIONS} >= rows


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_its_row_of_the_table_alone(name):
    paper, ablation = load_preset(TrainConfig, "paper"), load_preset(TrainConfig, name)
    changed = differences(paper, ablation)
    # The label-free objective halves the rate, too (App. B.7).
    rate = {"paper_label_free": "optimizer.rate"}.get(name, "engine.")
    assert changed and (
        all(line.startswith("engine.") for line in changed)
        or all(line.startswith(("objective.", rate)) for line in changed)
    )


def test_augmentations_are_taken_away_one_after_the_other(bank):
    paper = engine_of("paper")
    rows = [paper] + [engine_of(f"paper_{name}") for name in ("no_foreground", "no_offline_artefacts", "no_artefacts")]
    assert [row.ensemble.foreground.probability > 0 for row in rows] == [True, False, False, False]
    assert [row.online.enabled for row in rows] == [True, True, True, False]
    for row, offline in zip(rows, (True, True, False, False), strict=True):
        looks = [sample_appearance(row.appearance, 5, sample_generator(0, index)) for index in range(30)]
        assert any(look.artefacts for look in looks) == offline
        assert any(look.mixture.stds[0] == 0 for look in looks) == offline
    plain = synthesize_pair(bank, rows[-1], seed=0, index=0)
    assert torch.equal(plain.views, synthesize_stored(bank, rows[-1], seed=0, index=0).views / 255)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "nan", "Infinity"])
@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("optimizer", "rate"), "optimizer.rate"),
        (("optimizer", "stair_factors"), r"optimizer.stair_factors\[1\]"),
        (("engine", "appearance", "bias_field", "probability"), "engine.appearance.bias_field.probability"),
        (("average_decay",), "average_decay"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(path, named, value):
    changes: object = [1.0, value] if path[-1] == "stair_factors" else value
    for name in reversed(path):
        changes = {name: changes}
    with pytest.raises(InputError, match=f"TrainConfig: .*{named if isinstance(value, float) else path[-1]}"):
        from_dict(TrainConfig, changes)


def test_a_training_looks_at_a_configuration_made_in_python_too(tmp_path, bank):
    config = TrainConfig(steps=1, engine=EngineConfig(side=32), optimizer=OptimizerConfig(weight_decay=float("nan")))
    with pytest.raises(InputError, match=r"TrainConfig: optimizer\.weight_decay must be a finite number, got nan"):
        train(tmp_path / "run", config, bank, device="cpu")
    assert not (tmp_path / "run").exists()
