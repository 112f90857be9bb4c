"""Test that a store is intact, or that one line names the fault and the remedy."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from dataclasses import replace
from itertools import chain

import pytest
import torch

from pretraining.common.config import to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.engine.synthesis import EngineConfig, synthesize_stored
from pretraining.samples.shards import pack, write_shard
from pretraining.samples.store import (
    MissingSamples,
    StoreConfig,
    begin_store,
    finish_store,
    open_store,
    present_shards,
    read_store_config,
    reconcile_config,
    samples_per_shard,
)

CONFIG = StoreConfig(count=5, seed=1, templates={"sha256": "abc"}, engine=EngineConfig(side=16), shard_samples=2)


@pytest.mark.parametrize("count", [1, 16, 999, 5_000, 120_000, 1_000_000])
def test_every_sample_has_one_place_and_files_are_few(count):
    config = replace(CONFIG, count=count, shard_samples=samples_per_shard(count))
    shards = [config.indices(shard) for shard in range(config.shard_count)]
    assert list(chain.from_iterable(shards)) == list(range(count))
    assert len(shards) <= max(2_000, count / 16)
    assert count > 100 or len(shards) == count, "few samples still keep many processes busy"


@pytest.mark.parametrize("shards", [range(0, 4), range(1, 4, 2), range(0, 4, 3), range(2, 2)])
@pytest.mark.parametrize("present", [(), (3,), (0, 2), (0, 1, 2, 3)])
def test_missing_samples_are_counted_as_they_are_listed(shards, present):
    config = replace(CONFIG, count=11, shard_samples=3)
    missing = MissingSamples(config, shards, frozenset(present) & frozenset(shards))
    expected = [index for shard in shards if shard not in present for index in range(3 * shard, min(3 * shard + 3, 11))]
    assert list(missing) == expected and len(missing) == len(expected)
    assert missing.shard_count == len([shard for shard in shards if shard not in present])


def test_only_files_of_this_store_are_there(store_folder):
    config = read_store_config(store_folder)
    for name in ("shard-0000002.b2nd", "shard-0000012.b2nd", "shard-4.b2nd", "shard-x.b2nd", "old-shard-0000000.b2nd"):
        (store_folder / name).touch()
    (store_folder / "shard-0000008.b2nd").unlink()
    assert present_shards(store_folder, config) == {0, 1}
    assert present_shards(store_folder / "nowhere", config) == frozenset()


def test_samples_come_back_in_any_order_and_in_another_process(pristine_store, request_of):
    store = pickle.loads(pickle.dumps(open_store(pristine_store)))
    request = request_of()
    for index in (9, 0, 5, 3):
        made = synthesize_stored(request.bank, request.engine, seed=request.seed, index=index)
        assert all(torch.equal(part, stored) for part, stored in zip(made, store.read(index), strict=True))
    for index in (-1, 10):
        with pytest.raises(IndexError, match="0 to 9"):
            store.read(index)


def test_the_manifest_lists_every_sample_once(pristine_store):
    lines = [json.loads(line) for line in (pristine_store / "manifest.jsonl").read_text().splitlines()]
    assert [(line["file"], line["first"], len(line["checksums"])) for line in lines] == [
        ("shard-0000000.b2nd", 0, 4),
        ("shard-0000004.b2nd", 4, 4),
        ("shard-0000008.b2nd", 8, 2),
    ]
    assert len({checksum for line in lines for checksum in line["checksums"]}) == 10


def test_a_missing_or_shortened_shard_is_noticed_on_opening(store_folder):
    shard = store_folder / "shard-0000004.b2nd"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(
        InputError, match=r"shard-0000004\.b2nd has \d+ bytes instead of \d+: it was cut short.*synthesize"
    ):
        open_store(store_folder)
    shard.unlink()
    with pytest.raises(
        InputError, match=r"shard-0000004\.b2nd is missing; run the same `anatomix-pretrain synthesize` command"
    ):
        open_store(store_folder)


def test_what_happens_to_files_after_opening_is_noticed_on_reading(store_folder):
    store = open_store(store_folder)
    first, second, third = sorted(store_folder.glob("*.b2nd"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    first.write_bytes(damaged)
    third.write_bytes(second.read_bytes())
    second.unlink()
    for index, said in ((2, "damaged"), (6, "missing"), (8, "damaged")):
        with pytest.raises(InputError, match=rf"shard-000000{index // 4 * 4}\.b2nd is {said}.*with --verify"):
            # One of the first four samples is damaged, whichever.
            [store.read(i) for i in (range(4) if index == 2 else [index])]


def test_an_unfinished_store_is_refused(store_folder):
    (store_folder / "manifest.jsonl").unlink()
    (store_folder / "shard-0000008.b2nd").unlink()
    with pytest.raises(InputError, match="not finished: 2 of its 3 shards are there; run the same"):
        open_store(store_folder)
    assert finish_store(store_folder) == 1
    assert not (store_folder / "manifest.jsonl").exists()


@pytest.mark.parametrize("damage", ["not json", '{"first": 0}\n', "[]\n", '{"first": 4, "checksums": []}\n'])
def test_a_damaged_manifest_is_named(store_folder, damage):
    (store_folder / "manifest.jsonl").write_text(damage)
    with pytest.raises(InputError, match=r"manifest\.jsonl is damaged; delete it"):
        open_store(store_folder)


def test_the_shard_of_another_store_does_not_count(store_folder, request_of):
    request = request_of()
    stolen = [pack(synthesize_stored(request.bank, request.engine, seed=4, index=index)) for index in range(4)]
    write_shard(store_folder / "shard-0000000.b2nd", stolen, store="another", first=0, side=16)
    assert finish_store(store_folder) == 1


def test_another_configuration_is_refused_by_name(tmp_path):
    begin_store(tmp_path, CONFIG)
    assert read_store_config(tmp_path) == CONFIG == begin_store(tmp_path, CONFIG)
    for changes, named in (
        ({"seed": 2}, "seed: 1 -> 2"),
        ({"engine": EngineConfig(side=32)}, "engine.side: 16 -> 32"),
        ({"templates": {"sha256": "xyz"}}, r"templates.sha256: abc -> xyz"),
        ({"device": "cuda"}, "device: cpu -> cuda"),
        ({"software": "0.0.0"}, "software: .* -> 0.0.0"),
        ({"count": 4}, "count: 5 -> 4"),
        ({"count": 6, "seed": 2}, r"\(seed: 1 -> 2\)"),
    ):
        with pytest.raises(InputError, match=named):
            begin_store(tmp_path, replace(CONFIG, **changes))
    assert read_store_config(tmp_path) == CONFIG


def test_a_larger_count_makes_a_store_grow_and_keeps_its_files(tmp_path):
    begin_store(tmp_path, CONFIG)
    larger = replace(CONFIG, count=50, shard_samples=16)
    assert reconcile_config(tmp_path, larger) == begin_store(tmp_path, larger) == replace(CONFIG, count=50)
    assert replace(CONFIG, count=50).digest == CONFIG.digest != replace(CONFIG, seed=2).digest


def test_a_store_goes_into_a_new_or_an_empty_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is a file; expected a folder"):
        begin_store(tmp_path / "file", CONFIG)
    with pytest.raises(InputError, match=r"holds other files and no config\.json"):
        begin_store(tmp_path, CONFIG)
    (tmp_path / "file").unlink()
    (tmp_path / ".config-abcd1234.json").write_text("{")  # what a process killed at once leaves behind
    assert begin_store(tmp_path, CONFIG) == CONFIG


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no store of samples at"):
        open_store(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(CONFIG) | {"steps": 3}))
    with pytest.raises(InputError, match=r"unknown keys \['steps'\]"):
        open_store(tmp_path)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"shard_samples": 0}, {"seed": -1}, {"seed": 2**63}])
def test_impossible_stores_are_refused(wrong):
    with pytest.raises(ValueError, match=r"(count|shard_samples|seed): expected a number"):
        replace(CONFIG, **wrong)


def test_stores_filled_apart_are_one_once_their_files_lie_together(store_folder, tmp_path):
    """Merge shares by copying their files: no file depends on who made it."""
    content = (store_folder / "manifest.jsonl").read_bytes()
    here, there = store_folder, tmp_path / "there"
    there.mkdir()
    shutil.copy(here / "config.json", there)
    for file in sorted(here.glob("*.b2nd"))[::2]:
        shutil.move(file, there / file.name)
    shutil.copy(here / "shard-0000004.b2nd", there)
    assert finish_store(there) == 0
    assert (there / "manifest.jsonl").read_bytes() == content and len(open_store(there)) == 10


def test_of_two_that_begin_one_store_the_second_finds_what_the_first_decided(tmp_path):
    said = []

    def begin() -> None:
        try:
            begin_store(tmp_path / "store", replace(CONFIG, seed=2))
        except InputError as error:
            said.append(str(error))

    second = threading.Thread(target=begin)
    with hold_lock(tmp_path / "store"):
        second.start()
        time.sleep(0.3)  # it has seen that there is no store yet
        (tmp_path / "store" / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    second.join()
    assert (
        "was started with another configuration (seed: 1 -> 2)" in said[0]
        and read_store_config(tmp_path / "store") == CONFIG
    )
