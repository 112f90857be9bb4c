"""Test that epochs use each sample once, in an order and variation given by the use's number."""

from __future__ import annotations

import pytest
import torch

from pretraining.engine.synthesis import augment, synthesize_pair
from pretraining.samples.dataset import StoredPairs, load_stored
from pretraining.samples.store import open_store
from pretraining.samples.stream import load


@pytest.fixture(scope="module")
def store(pristine_store):
    return open_store(pristine_store)


def same(a, b) -> bool:
    return all(torch.equal(part, other) for part, other in zip(a, b, strict=True))


def test_each_epoch_is_another_permutation(store):
    pairs = StoredPairs(store=store, seed=0)
    epochs = [[pairs.index(use) for use in range(epoch * 10, epoch * 10 + 10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [StoredPairs(store=store, seed=1).index(use) for use in range(10)] != epochs[0]


def test_samples_held_out_are_never_used(store):
    pairs = StoredPairs(store=store, seed=0, count=7)
    assert {pairs.index(use) for use in range(70)} == set(range(7))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_uses_depend_on_their_numbers_alone(store, workers):
    before = torch.get_rng_state()
    uses = list(load(StoredPairs(store=store, seed=5, start=7, stride=2, length=5), workers=workers))
    assert [use for use, _ in uses] == [7, 9, 11, 13, 15]
    whole = StoredPairs(store=store, seed=5)
    for use, pair in uses:
        assert same(pair, augment(store.read(whole.index(use)), store.config.engine.online, seed=5, draw=use))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stored_sample_is_varied_as_one_made_on_the_fly(store, request_of):
    request = request_of()
    made = synthesize_pair(request.bank, request.engine, seed=request.seed, index=4)
    assert same(StoredPairs(store=store, seed=request.seed).apply_variation(4, store.read(4)), made)


def test_a_sample_differs_from_use_to_use(store):
    pairs = StoredPairs(store=store, seed=0, count=1)
    (_, first), (_, second) = load(StoredPairs(store=store, seed=0, count=1, length=2))
    assert pairs.index(0) == pairs.index(1) and not same(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_for_a_device_gives_the_same_uses(store, workers):
    pairs = StoredPairs(store=store, seed=5, start=3, length=4, device="cuda" if torch.cuda.is_available() else "cpu")
    loaded = list(load_stored(pairs, workers=workers))
    assert [use for use, _ in loaded] == [3, 4, 5, 6]
    for use, pair in loaded:
        assert pair.views.device.type == torch.device(pairs.device).type
        assert same(pair, pairs.apply_variation(use, store.read(pairs.index(use))))


@pytest.mark.parametrize("wrong", [{"start": -1}, {"stride": 0}, {"length": -1}, {"count": 0}, {"count": 11}])
def test_impossible_data_sets_are_refused(store, wrong):
    with pytest.raises(ValueError, match="expected a number"):
        StoredPairs(store=store, seed=0, **wrong)
