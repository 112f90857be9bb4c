"""Label models are chosen in proportion to their shares."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from pretraining.common.random import sample_generator
from pretraining.engine.label_models import LABEL_MODELS, LabelModelConfig, choose_label_model
from pretraining.engine.synthesis import EngineConfig
from tests.pretraining.engine.subjects import bank_of_subjects, body

SHAPE = (48, 32, 40)


def chosen(config: LabelModelConfig, count: int = 600) -> Counter:
    return Counter(choose_label_model(config, sample_generator(0, index, "label model")) for index in range(count))


def test_shares():
    assert chosen(LabelModelConfig()) == {"ensemble": 600}
    assert chosen(LabelModelConfig(ensemble=0, anatomy=0.3)) == {"anatomy": 600}
    counts = chosen(LabelModelConfig(ensemble=3, smshapes=0, anatomy=1))
    assert set(counts) == {"ensemble", "anatomy"} and abs(counts["anatomy"] - 150) < 35
    assert all(
        abs(count - 200) < 40 for count in chosen(LabelModelConfig(ensemble=0.1, smshapes=0.1, anatomy=0.1)).values()
    )


def test_every_model_has_a_share_and_settings():
    names = {field.name for field in dataclasses.fields(LabelModelConfig)}
    assert names == set(LABEL_MODELS) and names <= {field.name for field in dataclasses.fields(EngineConfig)}


@pytest.mark.parametrize("name", LABEL_MODELS)
def test_all_models_are_used_alike(name):
    bank = bank_of_subjects({("bodies", "a"): body(7), ("bodies", "b"): body(5, seed=1)})
    model = LABEL_MODELS[name]
    for index in range(5):
        drawn = model.sample(getattr(EngineConfig(), name), SHAPE, bank, sample_generator(0, index, name))
        labels = model.render(drawn, bank, "cpu")
        assert labels.shape == SHAPE and labels.dtype == torch.uint8 and labels.is_contiguous()
        assert len(labels.unique()) >= 2 and labels.max() < drawn.label_count


@pytest.mark.parametrize(
    "wrong", [{"ensemble": -1.0}, {"ensemble": 0.0}, {"smshapes": math.nan}, {"anatomy": math.inf}, {"anatomy": -0.5}]
)
def test_impossible_shares_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected (a number of at least 0|at least one above 0)"):
        LabelModelConfig(**wrong)
