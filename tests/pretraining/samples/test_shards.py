"""Test that a shard returns what was written, or reports damage."""

from __future__ import annotations

import errno
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from pretraining.common.errors import InputError
from pretraining.engine.synthesis import StoredPair
from pretraining.samples.shards import checksum, pack, read_sample, read_shard, verify_shard, write_shard

SIDE = 16


def sample(seed: int) -> StoredPair:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 30, (SIDE,) * 3, dtype=torch.uint8, generator=generator)
    return StoredPair(labels, torch.randint(0, 256, (2, *(SIDE,) * 3), dtype=torch.uint8, generator=generator))


@pytest.fixture
def shard(tmp_path) -> Path:
    """Write three samples, from index 30 on."""
    path = tmp_path / "shard-0000030.b2nd"
    write_shard(path, [pack(sample(i)) for i in range(3)], store="a store", first=30, side=SIDE)
    return path


def test_what_is_read_is_what_was_written(shard):
    says = read_shard(shard)
    assert (says.store, says.first, says.side) == ("a store", 30, SIDE)
    for i, expected in enumerate(says.checksums):
        found = read_sample(shard, i, expected)
        assert all(torch.equal(part, written) for part, written in zip(found, sample(i), strict=True))
        assert found.labels.dtype == found.views.dtype == torch.uint8
    verify_shard(shard, says)


def test_bytes_follow_from_the_samples_alone(shard, tmp_path):
    write_shard(tmp_path / "again.b2nd", [pack(sample(i)) for i in range(3)], store="a store", first=30, side=SIDE)
    assert (tmp_path / "again.b2nd").read_bytes() == shard.read_bytes()


def test_bytes_do_not_depend_on_the_threads_of_the_process(shard, tmp_path):
    before = blosc2.set_nthreads(7)
    try:
        write_shard(tmp_path / "again.b2nd", [pack(sample(i)) for i in range(3)], store="a store", first=30, side=SIDE)
    finally:
        blosc2.set_nthreads(before)
    assert (tmp_path / "again.b2nd").read_bytes() == shard.read_bytes()


def test_the_checksum_is_of_labels_and_views():
    of = {checksum(np.concatenate([labels[None], views])) for labels, views in (sample(0), sample(1))}
    labels, views = sample(0)
    swapped = torch.cat([labels[None], views.flip(0)]).numpy()
    assert len(of | {checksum(swapped)}) == 3
    assert pack(sample(0)).checksum in of


def test_it_opens_as_nnunet_opens_its_own_files(shard):
    array = blosc2.open(urlpath=str(shard), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
    assert array.shape == (3, 3, SIDE, SIDE, SIDE)
    assert np.array_equal(array[1, 0], sample(1).labels)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99, 0.9999])
def test_a_shard_cut_short_is_found_out_without_decoding_it(shard, share):
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"shard-0000030\.b2nd is cut short"):
        read_shard(shard)


def test_a_damaged_sample_is_refused_and_the_others_can_still_be_read(shard):
    checksums = read_shard(shard).checksums
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # in the second of three samples of one size
    shard.write_bytes(content)
    assert read_shard(shard).checksums == checksums
    for i in (0, 2):
        read_sample(shard, i, checksums[i])
    with pytest.raises(InputError, match="damaged: sample 1"):
        read_sample(shard, 1, checksums[1])
    with pytest.raises(InputError, match="damaged: sample 1"):
        verify_shard(shard, read_shard(shard))


@pytest.mark.parametrize("foreign", ["text", "blosc2", "shape"])
def test_a_foreign_file_is_refused(tmp_path, foreign):
    path = tmp_path / "shard-0000000.b2nd"
    if foreign == "text":
        path.write_text("not this")
    elif foreign == "blosc2":
        blosc2.asarray(np.zeros((3, 3, 16, 16, 16), np.uint8), urlpath=str(path), mode="w")
    else:
        array = blosc2.asarray(np.zeros((2, 4), np.uint8), urlpath=str(path), mode="w")
        array.schunk.vlmeta["anatomix"] = {"format": "anatomix-shard-1", "store": "", "first": 0, "checksums": ["", ""]}
    with pytest.raises(InputError, match="not a shard of this version"):
        read_shard(path)


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(InputError, match="nowhere is missing"):
        read_sample(tmp_path / "nowhere", 0, "")


def test_a_full_disk_leaves_the_old_shard_and_nothing_else(shard, monkeypatch):
    before = shard.read_bytes()

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="free some space there"):
        write_shard(shard, [pack(sample(9))], store="a store", first=30, side=SIDE)
    assert shard.read_bytes() == before and list(shard.parent.iterdir()) == [shard]
