"""Template banks in memory and on disk return what was stored; damaged and foreign files raise."""

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from pretraining.bank.bank_file import FAMILY, FOOTER, MAGIC, write_bank
from pretraining.bank.bank_index import ROW, TemplateEntry
from pretraining.bank.packing import crop, pack, unpack
from pretraining.bank.template_bank import TemplateBank, describe_templates
from pretraining.common.errors import InputError
from pretraining.engine.synthesis import EngineConfig, synthesize_pair


def masks(count: int = 5, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(rng.integers(3, 12, size=3)) < 0.5 for _ in range(count)]


def written(path, volumes):
    packed = [pack(volume) for volume in volumes]
    entries = [
        TemplateEntry.of(mask, source="s", subject=f"p{i // 2}", organ=f"organ {i}", licence="CC0")
        for i, mask in enumerate(packed)
    ]
    index = write_bank(path, zip(entries, (mask.bits for mask in packed), strict=True), spacing_mm=2.0)
    assert list(index.entries()) == entries
    return path


def box_of(volume: np.ndarray) -> np.ndarray:
    where = np.argwhere(volume)
    return volume[tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))]


def test_round_trip_through_disk(tmp_path):
    volumes = masks()
    volumes[2] = np.pad(volumes[2], ((1, 0), (2, 0), (3, 0)))
    bank = TemplateBank.open(written(tmp_path / "a.bank", volumes))
    assert len(bank) == 5 and bank.spacing_mm == 2.0
    for i, volume in enumerate(volumes):
        mask, entry = bank.mask(i), bank.entry(i)
        assert mask.dtype == torch.bool and np.array_equal(mask.numpy(), box_of(volume))
        assert bank.shape(i) == tuple(mask.shape) == entry.shape
        assert entry.offset == tuple(np.argwhere(volume).min(0)) and entry.voxel_count == mask.sum()
        assert (entry.source, entry.subject, entry.organ, entry.licence) == ("s", f"p{i // 2}", f"organ {i}", "CC0")
    assert list(bank.entries()) == [bank.entry(i) for i in range(5)]


def test_packing_crops_in_any_memory_order():
    volume = np.pad(masks(1)[0], ((4, 1), (0, 2), (3, 3)))
    for array in (volume, np.asfortranarray(volume), volume[::-1]):
        tight, offset = crop(array)
        assert np.array_equal(tight, box_of(array)) and offset == tuple(np.argwhere(array).min(0))
        packed = pack(array)
        assert np.array_equal(unpack(packed.bits, packed.shape), box_of(array)) and packed.offset == offset
    assert crop(np.zeros((3, 4, 5), bool))[0].shape == (0, 0, 0)


def test_subjects_list_their_templates(tmp_path):
    bank = TemplateBank.open(written(tmp_path / "a.bank", masks()))
    assert bank.subjects() == {("s", "p0"): (0, 1), ("s", "p1"): (2, 3), ("s", "p2"): (4,)}
    in_memory = TemplateBank.from_masks(masks(2), ["liver"] * 2, source="s", spacing_mm=2.0)
    assert in_memory.subjects() == {("s", "0"): (0,), ("s", "1"): (1,)}


def test_memory_and_disk_agree_and_both_travel_to_other_processes(tmp_path):
    on_disk = TemplateBank.open(written(tmp_path / "a.bank", masks()))
    in_memory = TemplateBank.from_masks(masks(), ["liver"] * 5, source="s", spacing_mm=2.0)
    assert len(pickle.dumps(on_disk)) < 500
    for bank in (in_memory, pickle.loads(pickle.dumps(in_memory)), pickle.loads(pickle.dumps(on_disk))):
        assert all(torch.equal(bank.mask(i), on_disk.mask(i)) for i in range(5))


def test_the_digest_is_that_of_the_content(tmp_path):
    banks = [TemplateBank.from_masks(masks(seed=seed), ["liver"] * 5, source="s", spacing_mm=2.0) for seed in (0, 0, 1)]
    index = banks[0]._index
    write_bank(
        tmp_path / "a.bank",
        [(entry, banks[0].packed(i).numpy()) for i, entry in enumerate(index.entries())],
        spacing_mm=2.0,
    )
    assert TemplateBank.open(tmp_path / "a.bank").sha256 == banks[0].sha256 == banks[1].sha256 != banks[2].sha256


def test_a_bank_replaced_while_in_use_is_noticed(tmp_path):
    bank = TemplateBank.open(written(tmp_path / "a.bank", masks()))
    before = [bank.mask(i) for i in range(5)]
    sent = pickle.dumps(bank)
    written(tmp_path / "a.bank", masks(seed=1))
    assert all(torch.equal(bank.mask(i), mask) for i, mask in enumerate(before))
    with pytest.raises(InputError, match="replaced by another"):
        pickle.loads(sent)


def test_a_bank_of_one_template_is_enough(tmp_path):
    volume = np.ones((20, 14, 9), dtype=bool)
    bank = TemplateBank.open(written(tmp_path / "a.bank", [volume]))
    pair = synthesize_pair(bank, EngineConfig(side=16), seed=0, index=0)
    assert pair.labels.unique().numel() > 1 and torch.isfinite(pair.views).all()
    assert describe_templates(bank)["count"] == 1


def test_an_empty_mask_and_an_empty_bank_are_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        TemplateBank.from_masks([np.zeros((3, 3, 3))], ["liver"], source="s", spacing_mm=1.0)
    with pytest.raises(InputError, match="is empty"):
        TemplateBank.from_masks([], [], source="s", spacing_mm=1.0)
    write_bank(tmp_path / "a.bank", [], spacing_mm=1.0)
    with pytest.raises(InputError, match=r"a\.bank is empty"):
        TemplateBank.open(tmp_path / "a.bank")


def test_nothing_is_left_of_a_bank_that_failed(tmp_path):
    def broken():
        yield (
            TemplateEntry(source="", subject="", organ="", shape=(8, 1, 1), offset=(0, 0, 0), voxel_count=8),
            np.uint8([255]),
        )
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_bank(tmp_path / "a.bank", broken(), spacing_mm=1.0)
    wrong = TemplateEntry(source="", subject="", organ="", shape=(9, 9, 9), offset=(0, 0, 0), voxel_count=8)
    with pytest.raises(ValueError, match="92 bytes"):
        write_bank(tmp_path / "a.bank", [(wrong, np.uint8([255]))], spacing_mm=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 3, 20, -1, -40, -150])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = written(tmp_path / "a.bank", masks())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated|not a template bank"):
        TemplateBank.open(path)


def test_a_changed_index_is_refused_at_opening_and_a_changed_mask_when_it_is_read(tmp_path):
    path = written(tmp_path / "a.bank", masks())
    intact = path.read_bytes()
    index_start = FOOTER.unpack(intact[-FOOTER.size :])[0]
    TemplateBank.open(path).verify()

    def with_a_bit_flipped(where: int) -> None:
        path.write_bytes(intact[:where] + bytes([intact[where] ^ 4]) + intact[where + 1 :])

    for where in (index_start + 5, len(intact) - FOOTER.size - 5):
        with_a_bit_flipped(where)
        with pytest.raises(InputError, match="index does not match its checksum"):
            TemplateBank.open(path)
    with_a_bit_flipped(index_start - 1)
    bank = TemplateBank.open(path)
    assert bank.mask(0).any()
    for read in (lambda: bank.packed(4), lambda: bank.mask(4), bank.verify):
        with pytest.raises(InputError, match=r"its mask 4 \(organ 4 of s p2\)"):
            read()


def crafted(path, change_head=lambda head: head, **columns: object):
    """Write a bank, change its head and rows, and update its digest."""
    content = written(path, masks()).read_bytes()
    start, head_length, count, _, _ = FOOTER.unpack(content[-FOOTER.size :])
    head = json.dumps(change_head(json.loads(content[start : start + head_length]))).encode()
    rows = np.frombuffer(content[start + head_length : -FOOTER.size], dtype=ROW).copy()
    for column, value in columns.items():
        rows[column][0] = value
    index = head + rows.tobytes()
    footer = FOOTER.pack(start, len(head), count, hashlib.sha256(index).digest(), MAGIC)
    path.write_bytes(content[:start] + index + footer)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"change_head": lambda head: [head]},
        {"change_head": lambda head: None},
        {"change_head": lambda head: head | {"spacing_mm": float("nan")}},
        {"change_head": lambda head: head | {"spacing_mm": 0}},
        {"change_head": lambda head: head | {"spacing_mm": "1.5"}},
        {"change_head": lambda head: head | {"names": 7}},
        {"change_head": lambda head: head | {"names": head["names"][:1]}},
        {"change_head": lambda head: head | {"names": [1] * len(head["names"])}},
        {"change_head": lambda head: head | {"notes": [1]}},
        {"change_head": lambda head: {"names": head["names"]}},
        {"shape": (30000, 30000, 30000)},
        {"shape": (-8, -8, 8)},
        {"shape": (1, 1, 1)},
        {"organ": 4_000_000_000},
        {"voxel_count": 4_000_000_000},
    ],
)
def test_a_crafted_index_is_refused_in_one_line(tmp_path, change):
    with pytest.raises(InputError, match=r"a\.bank is not a valid template bank") as caught:
        TemplateBank.open(crafted(tmp_path / "a.bank", **change))
    assert "\n" not in str(caught.value)


def test_an_index_that_was_put_together_again_is_sound(tmp_path):
    TemplateBank.open(crafted(tmp_path / "a.bank")).verify()


def test_foreign_missing_and_older_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"templates": []}')
    with pytest.raises(InputError, match="not a template bank"):
        TemplateBank.open(tmp_path / "x.json")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no template bank at"):
            TemplateBank.open(missing)
    path = written(tmp_path / "a.bank", masks())
    path.write_bytes(path.read_bytes().replace(MAGIC, FAMILY + b"1\n"))
    with pytest.raises(InputError, match=r"format 1, this software reads format 3; build it again") as error:
        TemplateBank.open(path)
    assert "\n" not in str(error.value)


def test_banks_open_where_simpleitk_is_missing():
    modules = (
        "pretraining.engine.synthesis, pretraining.samples.stream, "
        "pretraining.templates.procedural, pretraining.templates.build"
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.modules['SimpleITK'] = None; import {modules}"], check=True)
