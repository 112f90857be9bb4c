"""Test training samples from templates or a store, and separate validation samples."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from pretraining.common.errors import InputError
from pretraining.engine.synthesis import EngineConfig
from pretraining.samples.source import StoreSource, TemplateSource, sample_source
from pretraining.samples.store import open_store

CPU = torch.device("cpu")


@pytest.fixture(params=["templates", "store"])
def source(request, request_of, pristine_store):
    wanted = request_of()
    given = wanted.bank if request.param == "templates" else open_store(pristine_store)
    found = sample_source(given, wanted.engine, seed=7, validation_count=3)
    assert isinstance(found, TemplateSource if request.param == "templates" else StoreSource)
    return found


def test_samples_go_on_anywhere(source):
    whole = list(islice(source.samples(start=0, device=CPU, workers=0), 6))
    later = list(islice(source.samples(start=4, device=CPU, workers=1), 2))
    apart = list(islice(source.samples(start=1, stride=4, device=CPU, workers=0), 2))
    assert [number for number, _ in whole] == list(range(6))
    for number, pair in later + apart:
        assert torch.equal(pair.views, whole[number][1].views)


def test_samples_stored_by_workers_and_varied_here_are_the_same(request_of, monkeypatch):
    """Run the path of a GPU on a CPU: workers send 8-bit samples."""
    request = request_of()
    source = sample_source(request.bank, request.engine, seed=7, validation_count=1)
    whole = list(islice(source.samples(start=2, device=CPU, workers=0), 3))
    sent = []

    def noted(self, stored, device):
        def note():
            for index, sample in stored:
                sent.append(sample)
                yield index, sample

        return varied(self, note(), CPU)

    varied = TemplateSource.apply_variation
    monkeypatch.setattr(TemplateSource, "apply_variation", noted)
    found = list(islice(source.samples(start=2, device=torch.device("meta"), workers=2), 3))
    assert all(part.dtype == torch.uint8 for sample in sent for part in sample) and len(sent) >= 3
    for (index, pair), (expected_index, expected) in zip(found, whole, strict=True):
        assert index == expected_index
        assert torch.equal(pair.labels, expected.labels) and torch.equal(pair.views, expected.views)


def test_validation_is_fixed_and_apart_from_training(source):
    first, again = list(source.validation(CPU)), list(source.validation(CPU))
    assert len(first) == 3 and all(torch.equal(a.views, b.views) for (_, a), (_, b) in zip(first, again, strict=True))
    assert min(number for number, _ in first) >= 2**40


def test_the_description_is_of_json_types_and_tells_sources_apart(source, request_of):
    told = source.describe()
    assert json.loads(json.dumps(told)) == told and told["count"] == len(request_of().bank)
    if isinstance(source, StoreSource):
        assert told["stored"] == {"count": 10, "seed": 3, "device": "cpu"}


def test_a_store_brings_its_engine(pristine_store):
    with pytest.raises(InputError, match=r"another engine configuration \(engine\.side: 16 -> 32\)"):
        sample_source(open_store(pristine_store), EngineConfig(side=32), seed=0, validation_count=1)


def test_a_store_must_be_larger_than_what_is_held_out(pristine_store, request_of):
    store = open_store(pristine_store)
    with pytest.raises(InputError, match="has 10 samples, of which validation_pairs=10"):
        sample_source(store, request_of().engine, seed=0, validation_count=10)
    held_out = sample_source(store, request_of().engine, seed=0, validation_count=9)
    assert replace(held_out, validation_count=4).training_count == 6
