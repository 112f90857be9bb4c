"""The bank on disk: what goes in comes out, and what is no bank is refused."""

import json
import pickle

import numpy as np
import pytest
import torch

from pretraining.engine.templates import TemplateBank, TemplateEntry, pack, write_bank
from pretraining.errors import InputError


def masks(count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(rng.integers(3, 12, size=3)) < 0.5 for _ in range(count)]


def written(path, volumes):
    entries = []
    for i, volume in enumerate(volumes):
        mask = pack(volume)
        where = {"shape": mask.shape, "offset": mask.offset, "voxel_count": mask.voxel_count}
        entries.append((TemplateEntry(source="s", subject=f"p{i}", organ="liver", licence="CC0", **where), mask.bits))
    assert write_bank(path, entries, spacing_mm=2.0) == len(volumes)
    return path


def cropped(volume: np.ndarray) -> np.ndarray:
    where = np.argwhere(volume)
    return volume[tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))]


def test_round_trip_through_disk(tmp_path):
    volumes = masks()
    volumes[2] = np.pad(volumes[2], 3)
    bank = TemplateBank.open(written(tmp_path / "a.bank", volumes))
    assert len(bank) == 5 and bank.spacing_mm == 2.0
    for i, volume in enumerate(volumes):
        mask = bank.mask(i)
        assert mask.dtype == torch.bool and np.array_equal(mask.numpy(), cropped(volume))
        assert bank.shape(i) == tuple(mask.shape) == bank.entry(i).shape
        assert bank.entry(i).voxel_count == mask.sum() and bank.entry(i).subject == f"p{i}" and bank.entry(i).licence == "CC0"


def test_memory_and_disk_agree_and_both_travel_to_other_processes(tmp_path):
    on_disk = TemplateBank.open(written(tmp_path / "a.bank", masks()))
    in_memory = TemplateBank.from_masks(masks(), ["liver"] * 5, source="s", spacing_mm=2.0)
    assert len(pickle.dumps(on_disk)) < 500
    for bank in (in_memory, pickle.loads(pickle.dumps(in_memory)), pickle.loads(pickle.dumps(on_disk))):
        assert all(torch.equal(bank.mask(i), on_disk.mask(i)) for i in range(5))


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        TemplateBank.from_masks([np.zeros((3, 3, 3))], ["liver"], source="s", spacing_mm=1.0)


def test_nothing_is_left_of_a_bank_that_failed(tmp_path):
    def broken():
        yield from [(TemplateEntry(source="", subject="", organ="", shape=(8, 1, 1), offset=(0, 0, 0), voxel_count=8), np.uint8([255]))]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_bank(tmp_path / "a.bank", broken(), spacing_mm=1.0)
    with pytest.raises(InputError, match="nothing usable"):
        write_bank(tmp_path / "a.bank", [], spacing_mm=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 3, 20, -1, -40])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = written(tmp_path / "a.bank", masks())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut short|not a template bank"):
        TemplateBank.open(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"templates": []}))
    with pytest.raises(InputError, match="not a template bank"):
        TemplateBank.open(tmp_path / "x.json")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no template bank at"):
            TemplateBank.open(missing)


def test_an_index_that_disagrees_with_its_masks_is_refused(tmp_path):
    path = tmp_path / "a.bank"
    write_bank(
        path,
        [(TemplateEntry(source="", subject="", organ="", shape=(9, 9, 9), offset=(0, 0, 0), voxel_count=8), np.uint8([255]))],
        spacing_mm=1.0,
    )
    with pytest.raises(InputError, match="damaged"):
        TemplateBank.open(path)
