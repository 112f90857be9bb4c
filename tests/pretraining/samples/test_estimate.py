"""Test the estimate logged before a store is synthesized, and the refusal of stores too large."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from pretraining.common.errors import InputError
from pretraining.samples import estimate
from pretraining.samples.estimate import estimate_cost
from pretraining.samples.shards import PackedSample


def make(index: int) -> PackedSample:
    return PackedSample(bytes(1_000_000 + index), "")


@pytest.fixture
def free_bytes(monkeypatch):
    def set_to(count: int) -> None:
        monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: SimpleNamespace(free=count))

    return set_to


def test_the_samples_that_told_are_handed_on(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        made = estimate_cost(make, [4, 7, 9], tmp_path / "not" / "there", workers=2)
    assert [index for index, _ in made] == [4, 7, 9] and all(sample == make(index) for index, sample in made)
    assert "3 samples to make" in caplog.text and "3.0 MB of disk" in caplog.text
    assert estimate_cost(make, [], tmp_path, workers=1) == []


def test_only_a_few_are_made(tmp_path, monkeypatch):
    assert len(estimate_cost(make, range(100), tmp_path, workers=1)) == estimate.TRIALS
    monkeypatch.setattr(estimate, "TRIAL_SECONDS", -1.0)
    assert len(estimate_cost(make, range(100), tmp_path, workers=1)) == 2


def test_time_is_that_of_all_but_the_first_shared_by_the_workers(tmp_path, caplog, monkeypatch):
    clock = iter([0.0, 50.0, 56.0, 62.0])  # the first one was compiled
    monkeypatch.setattr(estimate.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        estimate_cost(make, range(3), tmp_path, workers=1)
    assert "about 18.0 seconds" in caplog.text
    clock = iter([0.0, 50.0, 53600.0])
    with caplog.at_level(logging.INFO):
        estimate_cost(make, range(1000), tmp_path, workers=10)
    assert "about 62.0 days by 10 workers" in caplog.text


def test_what_will_not_fit_is_refused(tmp_path, free_bytes):
    free_bytes(99_000_000)
    with pytest.raises(
        InputError, match=r"100 samples need about 100\.0 MB, the disk of .* has 99\.0 MB free; make room"
    ):
        estimate_cost(make, range(100), tmp_path, workers=1)


def test_what_others_will_write_is_a_warning(tmp_path, free_bytes, caplog):
    free_bytes(150_000_000)
    estimate_cost(make, range(100), tmp_path, workers=1, others=10)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    estimate_cost(make, range(100), tmp_path, workers=1, others=100)
    assert "more than is free" in caplog.text
