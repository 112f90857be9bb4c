"""Output paths are checked before the work and left unchanged."""

from __future__ import annotations

import os
import tempfile

import pytest

from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file, try_folder


def test_trying_leaves_no_trace(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("mine")
    for folder in ("there", "new/deep/er"):
        try_folder(tmp_path / folder)
    try_file(tmp_path / "there" / "a.txt")
    try_file(tmp_path / "other" / "b.txt")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["there", "there/a.txt"]
    assert (tmp_path / "there" / "a.txt").read_text() == "mine"


def test_a_place_in_the_working_folder_has_no_parents_to_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try_file("a.txt")
    try_folder("run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/run", "file/deeper/run"])
def test_a_file_in_the_way_is_named(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"^DST: .*/file is a file"):
        try_folder(tmp_path / place, "DST")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match=r"^--json: .* is a folder"):
        try_file(tmp_path, "--json")


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    """Simulate the refusal, since root may write everywhere."""

    def refuse(**options):
        raise PermissionError(13, "Permission denied", os.fspath(options["dir"]))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot write to .*new \(Permission denied\)"):
        try_folder(tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_found_before_the_work(small_disk):
    small_disk.leave(0)
    with pytest.raises(InputError, match="No space left on device"):
        try_folder(small_disk.folder / "run")
    assert not small_disk.files()
