"""Test that a checkpoint returns what was written, or that one line names the file."""

from __future__ import annotations

import random
import shutil
import zipfile

import pytest
import torch

from pretraining.common.errors import InputError
from pretraining.learning.checkpoint import load_checkpoint, save_checkpoint
from pretraining.learning.export import export_run
from pretraining.learning.train import train
from pretraining.templates.procedural import procedural_bank
from tests.pretraining.learning.test_train import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train a run; tests must not change it."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, TINY, procedural_bank(8), device="cpu", workers=0)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def flip(path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def a_byte_of_a_weight(path) -> int:
    """Return the position of a byte in the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(
            (info for info in archive.infolist() if "/data/" in info.filename), key=lambda info: info.file_size
        )
        return path.read_bytes().index(archive.read(largest)) + largest.file_size // 2


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damage_is_named_with_its_file_wherever_the_checkpoint_is_read(run, tmp_path, damage):
    for name in ("checkpoint.pt", "best.pt"):
        if damage == "flip":
            flip(run / name, a_byte_of_a_weight(run / name))
        else:
            (run / name).write_bytes((run / name).read_bytes()[: 5000 if damage == "cut" else 0])
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        train(run, TINY, procedural_bank(8), resume=True, device="cpu", workers=0)
    for which, name in (("best", "best"), ("last", "checkpoint")):
        with pytest.raises(InputError, match=rf"run/{name}\.pt is damaged"):
            export_run(run, tmp_path / "weights.safetensors", which=which)
    assert not (tmp_path / "weights.safetensors").exists()


def test_wherever_a_bit_flips_it_is_found_or_does_no_harm(run):
    path = run / "checkpoint.pt"
    whole, content = load_checkpoint(path), path.read_bytes()
    draw = random.Random(3)
    ends = range(len(content) - 3000, len(content), 40)  # where the archive's directory lies
    found = 0
    for byte in [*(draw.randrange(len(content)) for _ in range(60)), *range(0, 200, 7), *ends]:
        path.write_bytes(content)
        flip(path, byte, draw.randrange(8))
        try:
            assert equal(vars(load_checkpoint(path)), vars(whole)), f"byte {byte}"
        except InputError as error:
            assert str(path) in str(error)
            found += 1
    assert found > 40


def test_a_checkpoint_of_an_older_version_loads(finished, tmp_path):
    """Omit the fields that later versions added."""
    content = vars(load_checkpoint(finished / "checkpoint.pt"))
    older = {name: value for name, value in content.items() if name not in ("minutes", "reserve_s", "average")}
    torch.save(older, tmp_path / "old.pt")
    assert equal(vars(load_checkpoint(tmp_path / "old.pt")), content)
    save_checkpoint(tmp_path / "new.pt", load_checkpoint(tmp_path / "old.pt"))
    assert equal(vars(load_checkpoint(tmp_path / "new.pt")), content)


def test_nothing_is_unpickled_but_tensors_and_plain_values(tmp_path):
    class Marks:
        def __reduce__(self):
            return (tmp_path.joinpath("mark").touch, ())

    torch.save({"step": Marks()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "mark").exists()
