"""Files appear atomically, also on a full disk, and abandoned temporary files are removed."""

from __future__ import annotations

import gzip
import os
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from matplotlib.image import imsave

from pretraining.common.atomic import NotWritten, atomic_write, write_text
from pretraining.common.completeness import Incomplete, check_complete
from pretraining.common.errors import InputError


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "plan.json", "old")
    with pytest.raises(OSError, match="disk full"), atomic_write(tmp_path / "plan.json") as partial:
        partial.write_text("ne")
        raise OSError("disk full")
    assert (tmp_path / "plan.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_the_suffix_stays_for_those_who_choose_a_format_by_it(tmp_path):
    with atomic_write(tmp_path / "scan.nii.gz") as partial:
        assert partial.name.endswith(".nii.gz") and partial.parent == tmp_path
        partial.write_bytes(gzip.compress(b"x"))
    assert gzip.decompress((tmp_path / "scan.nii.gz").read_bytes()) == b"x"


def test_only_abandoned_partial_files_are_cleared_away(tmp_path):
    def left_behind(name: str, age_s: float) -> None:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    left_behind(".checkpoint-abcd1234.json", 7200)
    left_behind(".checkpoint-efgh5678.json", 60)  # somebody may still be writing it
    left_behind(".other-abcd1234.json", 7200)
    write_text(tmp_path / "checkpoint.json", "new")
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.json",
        ".checkpoint-efgh5678.json",
        ".other-abcd1234.json",
    }


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="a folder has this name"):
        write_text(tmp_path / "folder", "text")
    with pytest.raises(InputError, match=r"file is a file, expected a folder"):
        write_text(tmp_path / "file" / "deeper" / "plan.json", "text")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_is_not_what_was_meant_does_not_take_the_name(tmp_path):
    def verify(partial):
        raise Incomplete("3 rows are missing")

    write_text(tmp_path / "table.csv", "old")
    missing = pytest.raises(NotWritten, match=r"table\.csv is incomplete on disk \(3 rows are missing\)")
    with missing, atomic_write(tmp_path / "table.csv", verify=verify) as partial:
        partial.write_text("new")
    assert (tmp_path / "table.csv").read_text() == "old"


def test_an_empty_text_is_a_text(tmp_path):
    write_text(tmp_path / "log.jsonl", "")
    assert (tmp_path / "log.jsonl").read_bytes() == b""


TENSORS = {"weight": torch.arange(500.0), "bias": torch.ones(3)}


def write_png(path):
    imsave(path, np.random.default_rng(0).random((30, 40, 3)), format="png")


KINDS = {
    "text.json.gz": lambda path: path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(3000))),
    "picture.png": write_png,
    "weights.safetensors": lambda path: safetensors.torch.save_file(TENSORS, path),
    "weights.pth": lambda path: torch.save(TENSORS, path),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_complete_file_is_told_from_one_that_was_cut(tmp_path, name):
    path = tmp_path / name
    KINDS[name](path)
    check_complete(path)
    content = path.read_bytes()
    for kept in (0, 7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(Incomplete):
            check_complete(path)


@pytest.mark.parametrize("name", ["text.json.gz", "picture.png", "weights.pth"])
def test_a_flipped_bit_is_found_where_there_is_a_checksum(tmp_path, name):
    path = tmp_path / name
    KINDS[name](path)
    content = bytearray(path.read_bytes())
    at = content.index(TENSORS["weight"].numpy().tobytes()) + 100 if name == "weights.pth" else len(content) // 2
    content[at] ^= 16
    path.write_bytes(content)
    with pytest.raises(Incomplete):
        check_complete(path)


def save_tensors(path):
    with atomic_write(path) as partial:
        torch.save({"weight": torch.rand(100_000)}, partial)


def save_safetensors(path):
    with atomic_write(path) as partial:
        safetensors.torch.save_file({"weight": torch.rand(100_000)}, partial)


def save_picture(path):
    with atomic_write(path) as partial:
        imsave(partial, np.random.default_rng(0).random((300, 400, 3)), format="png")


def save_text(path):
    write_text(path, "x" * 300_000)


@pytest.mark.parametrize("write", [save_text, save_tensors, save_safetensors, save_picture])
@pytest.mark.parametrize("free_kib", [0, 60, 92])
def test_a_full_disk_is_one_line_and_the_older_file_stays(small_disk, write, free_kib):
    path = (
        small_disk.folder
        / {save_text: "a.csv", save_tensors: "a.pth", save_safetensors: "a.safetensors", save_picture: "a.png"}[write]
    )
    path.write_bytes(b"older")
    small_disk.leave(free_kib * 1024)
    with pytest.raises(NotWritten, match="free some space there") as caught:
        write(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert small_disk.files() == {path.name: b"older"}
