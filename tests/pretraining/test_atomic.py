"""Files appear whole or not at all, and what a killed process left behind does not pile up."""

from __future__ import annotations

import os
import time

import pytest

from pretraining.atomic import write_text, written_whole


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "plan.json", "old")
    with pytest.raises(OSError, match="disk full"), written_whole(tmp_path / "plan.json") as partial:
        partial.write_text("ne")
        raise OSError("disk full")
    assert (tmp_path / "plan.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_the_suffix_stays_for_those_who_choose_a_format_by_it(tmp_path):
    with written_whole(tmp_path / "scan.nii.gz") as partial:
        assert partial.name.endswith(".nii.gz") and partial.parent == tmp_path
        partial.write_text("x")
    assert (tmp_path / "scan.nii.gz").read_text() == "x"


def test_only_abandoned_partial_files_are_cleared_away(tmp_path):
    def left_behind(name: str, age_s: float) -> None:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    left_behind(".checkpoint-abcd1234.pth", 7200)
    left_behind(".checkpoint-efgh5678.pth", 60)  # somebody may still be writing it
    left_behind(".other-abcd1234.pth", 7200)
    write_text(tmp_path / "checkpoint.pth", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pth", ".checkpoint-efgh5678.pth", ".other-abcd1234.pth"}
