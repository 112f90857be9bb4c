"""One process at a time holds the lock of a folder, however that process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pretraining.common import lock
from pretraining.common.errors import InputError
from pretraining.common.lock import LOCK, InUse, hold_lock, is_vacant

HOLDER = """
import sys, time
from pathlib import Path
from pretraining.common.interruption import stop_signals_interrupt
from pretraining.common.lock import hold_lock
with stop_signals_interrupt(), hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def held(folder: Path) -> subprocess.Popen:
    """Start another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Create a folder with a lock of another machine, whose process cannot be checked."""
    monkeypatch.setattr(lock, "SILENCE_S", 0.6)
    with hold_lock(tmp_path / "out"):
        said = json.loads((tmp_path / "out" / LOCK).read_text()) | {"host": "node17", "token": "theirs"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_text(json.dumps(said))
    return tmp_path / "out"


def test_a_second_process_is_refused_and_told_who_has_the_folder(tmp_path):
    process = held(tmp_path)
    try:
        with (
            pytest.raises(InUse, match=rf"is in use by process {process.pid} on \S+ since 20.*remove .*{LOCK}"),
            hold_lock(tmp_path),
        ):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_that_is_asked_to_stop_leaves_no_lock(tmp_path, number):
    process = held(tmp_path)
    process.send_signal(number)
    assert process.wait(30) and not (tmp_path / LOCK).exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, caplog):
    process = held(tmp_path)
    process.kill()  # not yet waited for: a zombie still has its number
    time.sleep(0.2)
    with hold_lock(tmp_path):
        assert f"was locked by process {process.pid}" in caplog.text
    process.wait()
    assert not list(tmp_path.iterdir())


def test_a_later_process_of_the_same_number_does_not_hold_the_lock(tmp_path):
    with hold_lock(tmp_path / "out"):
        said = json.loads((tmp_path / "out" / LOCK).read_text()) | {"started": "1"}
    (tmp_path / LOCK).write_text(json.dumps(said))
    with hold_lock(tmp_path):
        pass


def test_a_lock_of_another_machine_without_a_sign_of_life_is_taken_over(elsewhere, caplog):
    with hold_lock(elsewhere):
        assert "was locked by process" in caplog.text and "node17" in caplog.text


def test_a_lock_of_another_machine_that_is_touched_is_respected(elsewhere):
    touched = threading.Timer(0.2, lambda: os.utime(elsewhere / LOCK, (1, 1)))
    touched.start()
    with pytest.raises(InUse, match="node17"), hold_lock(elsewhere):
        pass
    touched.join()
    assert json.loads((elsewhere / LOCK).read_text())["token"] == "theirs"


def test_a_held_lock_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    with hold_lock(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_process_that_lost_its_lock_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        with hold_lock(tmp_path):
            said = json.loads((tmp_path / LOCK).read_text()) | {"token": "theirs"}
            (tmp_path / LOCK).write_text(json.dumps(said))
            assert asked.wait(10)
        assert json.loads((tmp_path / LOCK).read_text())["token"] == "theirs", (
            "what another process holds is not removed"
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def test_waiting_ends_when_the_other_does(tmp_path):
    process = held(tmp_path)
    threading.Timer(0.3, lambda: process.send_signal(signal.SIGTERM)).start()
    with hold_lock(tmp_path, wait=True):
        assert process.wait(10)


def test_of_many_that_find_an_abandoned_lock_one_at_a_time_gets_it(tmp_path):
    process = held(tmp_path)
    process.kill()
    process.wait()
    inside, most = [], []

    def work() -> None:
        for _ in range(200):
            try:
                with hold_lock(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.01)
                    inside.pop()
                    return
            except InUse:
                time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_what_a_killed_takeover_left_delays_the_next_one_only(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HALF_WRITTEN_S", 0.1)
    process = held(tmp_path)
    process.kill()
    process.wait()
    token = json.loads((tmp_path / LOCK).read_text())["token"]
    (tmp_path / f"{LOCK}-{token}").write_text("{}")
    with hold_lock(tmp_path):
        assert [entry.name for entry in tmp_path.iterdir()] == [LOCK]
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_damaged_lock_is_one_of_somebody_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_S", 0.2)
    monkeypatch.setattr(lock, "_HALF_WRITTEN_S", 0.1)
    (tmp_path / LOCK).touch()
    with hold_lock(tmp_path):
        pass


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(OSError), hold_lock(tmp_path / "new"):
        raise OSError
    assert not (tmp_path / "new").exists()
    with hold_lock(tmp_path / "new"):
        (tmp_path / "new" / "result").touch()
    assert (tmp_path / "new" / "result").exists()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"but {tmp_path}/file is a file"), hold_lock(tmp_path / "file" / "out"):
        pass


def test_a_lock_alone_does_not_make_a_folder_taken(tmp_path):
    assert is_vacant(tmp_path) and is_vacant(tmp_path / "missing")
    with hold_lock(tmp_path):
        assert is_vacant(tmp_path)
        (tmp_path / "thesis.txt").touch()
        assert not is_vacant(tmp_path) and not is_vacant(tmp_path / "thesis.txt")
