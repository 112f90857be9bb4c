"""Test that samples and their order do not depend on the number of processes."""

import pytest
import torch

from pretraining.engine.synthesis import EngineConfig, synthesize_pair
from pretraining.samples.stream import PairStream, load
from pretraining.templates.procedural import procedural_bank

CONFIG = EngineConfig(side=16)


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(count=8)


def collected(bank, workers, **where):
    return list(load(PairStream(bank=bank, config=CONFIG, seed=3, **where), workers=workers))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_and_bytes_do_not_depend_on_workers(bank, workers):
    before = torch.get_rng_state()
    samples = collected(bank, workers, start=5, stride=2, length=5)
    assert [index for index, _ in samples] == [5, 7, 9, 11, 13]
    for index, pair in samples:
        alone = synthesize_pair(bank, CONFIG, seed=3, index=index)
        assert torch.equal(pair.labels, alone.labels) and torch.equal(pair.views, alone.views)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_without_length_does_not_end(bank):
    stream = load(PairStream(bank=bank, config=CONFIG, seed=0, start=2))
    assert [next(stream)[0] for _ in range(4)] == [2, 3, 4, 5]


def test_an_empty_stream_ends_at_once(bank):
    assert collected(bank, 2, length=0) == []


@pytest.mark.parametrize("wrong", [{"start": -1}, {"stride": 0}, {"length": -1}])
def test_impossible_streams_are_refused(bank, wrong):
    with pytest.raises(ValueError, match="expected a number of at least"):
        PairStream(bank=bank, config=CONFIG, seed=0, **wrong)


def test_workers_are_for_the_cpu(bank):
    with pytest.raises(ValueError, match="workers=0"):
        load(PairStream(bank=bank, config=CONFIG, seed=0, device="cuda"), workers=2)
