"""Inbox: a study is handed on when nothing of it has come for a while."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nnunet_anatomix.clinical.running.inbox import Inbox
from tests.nnunet_anatomix.clinical.dicom_series import write_series


class Clock:
    """Time in seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(tmp_path, clock) -> Inbox:
    (tmp_path / "in").mkdir()
    return Inbox(tmp_path / "in", 10, clock=clock)


def arrive(files: list[Path], inbox: Path, prefix: str = "") -> None:
    """Copy files into the inbox itself, where all studies lie side by side."""
    for file in files:
        shutil.copy(file, inbox / f"{prefix}{file.name}")


def slices(scanned) -> list[int]:
    return sorted(len(series.files) for series in scanned[0])


def test_a_study_is_handed_on_once_after_it_settles(inbox, clock, tmp_path):
    files = write_series(tmp_path / "made")
    arrive(files[:5], tmp_path / "in")
    assert inbox.poll() is None and inbox.arriving == 1
    clock.now = 9
    arrive(files[5:], tmp_path / "in")
    assert inbox.poll() is None
    clock.now = 18.9  # nine seconds and more after the first files, but not after the last
    assert inbox.poll() is None
    clock.now = 19
    assert slices(inbox.poll()) == [len(files)] and inbox.arriving == 0
    clock.now = 1000
    assert inbox.poll() is None
    assert slices(inbox.poll(again=True)) == [len(files)]


def test_a_study_that_is_arriving_does_not_hold_up_the_others(inbox, clock, tmp_path):
    one, two = write_series(tmp_path / "one"), write_series(tmp_path / "two")
    arrive(one, tmp_path / "in", "a")
    inbox.poll()
    clock.now = 6
    arrive(two[:3], tmp_path / "in", "b")
    inbox.poll()
    clock.now = 10
    assert slices(inbox.poll()) == [len(one)] and inbox.arriving == 1
    arrive(two[3:], tmp_path / "in", "b")
    clock.now = 16
    assert inbox.poll() is None
    clock.now = 26
    assert slices(inbox.poll()) == [len(one), len(two)]


def test_a_file_that_is_being_written_leaves_its_neighbours_alone(inbox, clock, tmp_path):
    files, late = write_series(tmp_path / "one"), write_series(tmp_path / "late")[0].read_bytes()
    arrive(files, tmp_path / "in")
    inbox.poll()
    clock.now = 5
    (tmp_path / "in" / "late.dcm").write_bytes(late[:200])
    inbox.poll()
    clock.now = 10
    series, strays = inbox.poll()
    assert [each.problem for each in series] == [""] and not strays
    (tmp_path / "in" / "late.dcm").write_bytes(late)
    inbox.poll()
    clock.now = 20
    assert slices(inbox.poll()) == [1, len(files)]


def test_later_slices_and_removed_ones_make_a_study_wait_again(inbox, clock, tmp_path):
    files = write_series(tmp_path / "made")
    arrive(files[:-1], tmp_path / "in")
    inbox.poll()
    clock.now = 10
    assert slices(inbox.poll()) == [len(files) - 1]
    arrive(files[-1:], tmp_path / "in")
    assert inbox.poll() is None and inbox.arriving == 1
    clock.now = 20
    assert slices(inbox.poll()) == [len(files)]
    (tmp_path / "in" / files[0].name).unlink()
    inbox.poll()
    assert slices(inbox.poll(again=True)) == []  # the rest is neither complete nor taken apart
    for file in files[1:]:
        (tmp_path / "in" / file.name).unlink()
    clock.now = 100
    assert inbox.poll() is None and inbox.arriving == 0


def test_image_files_wait_for_those_of_their_folder(inbox, clock, tmp_path):
    import SimpleITK as sitk

    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir()
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkInt16), str(tmp_path / "in" / "a" / "t1.nii.gz"))
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkInt16), str(tmp_path / "in" / "b" / "t1.nii.gz"))
    inbox.poll()
    clock.now = 8
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkInt16), str(tmp_path / "in" / "a" / "t2.nii.gz"))
    inbox.poll()
    clock.now = 10
    assert [series.folder for series in inbox.poll()[0]] == ["b"]
    clock.now = 18
    assert [series.folder for series in inbox.poll()[0]] == ["a", "a", "b"]
