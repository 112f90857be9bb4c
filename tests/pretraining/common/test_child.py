"""A child command ends when its parent is stopped, and its output is in the log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pretraining.common.child import run_child
from pretraining.common.errors import CommandFailed

PARENT = """
import os, sys
from pathlib import Path
from pretraining.common.command_line import run_commands
from pretraining.common.child import run_child
from pretraining.common.lock import hold_lock

def work(out: Path, program: str, grace: float = 20) -> None:
    '''Like study: a lock, and a command that runs for long.'''
    with hold_lock(out):
        run_child([sys.executable, "-c", program], os.environ, out / "log.txt", grace_s=grace)

run_commands("parent", lambda: {"All": {"work": work, "other": work}}, "")
"""
WORKERS = """
import os, subprocess, sys, time
from pathlib import Path
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("working", file=sys.stderr)
Path(os.environ["STARTED"]).write_text(f"{os.getpid()} {worker.pid}")
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WORKERS


@pytest.fixture
def started(tmp_path, monkeypatch) -> Path:
    """Return the file in which a child lists its processes."""
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    return tmp_path / "started"


def parent(out: Path, started: Path, program: str, *flags: str) -> tuple[subprocess.Popen, list[int]]:
    """Start a command that runs a child command; return it with its descendants."""
    command = [sys.executable, "-c", PARENT, "work", "--out", str(out), "--program", program, *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (started.exists() and len(started.read_text().split()) == 2):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    return process, [int(number) for number in started.read_text().split()]


def is_running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(numbers: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(is_running, numbers)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_stops_a_command_stops_all_that_it_started(tmp_path, started, number):
    process, children = parent(tmp_path / "out", started, WORKERS)
    process.send_signal(number)
    assert process.wait(30) == 128 + number and gone(children, 0.5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["log.txt"], "the lock is gone as well"
    assert "working" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
def test_a_child_that_does_not_stop_is_killed(tmp_path, started):
    process, children = parent(tmp_path / "out", started, STUBBORN, "--grace", "0.5")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143 and gone(children, 0.5)
    assert "did not stop within" in process.stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent was killed")
@pytest.mark.parametrize(
    "program", [WORKERS, "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\n" + WORKERS]
)
def test_a_killed_command_takes_its_children_along(tmp_path, started, program):
    process, children = parent(tmp_path / "out", started, program)
    process.kill()
    process.wait()
    assert gone(children, 10)


def test_a_command_that_was_killed_is_said_to_be(tmp_path):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CommandFailed, match=r"exit code \S+: it was killed, possibly for lack of memory"):
        run_child([sys.executable, "-c", program], os.environ, tmp_path / "log.txt")


def test_both_streams_are_in_the_log_and_the_last_lines_are_told(tmp_path, caplog):
    program = "import sys; print('much'); print('a warning', file=sys.stderr); sys.exit('the reason')"
    with pytest.raises(
        CommandFailed, match=rf"ended with exit code 1: the reason \(its whole output is in {tmp_path}/deep/log.txt"
    ):
        run_child([sys.executable, "-c", program], os.environ, tmp_path / "deep" / "log.txt")
    assert (tmp_path / "deep" / "log.txt").read_text().endswith("much\na warning\nthe reason\n")
    assert "last lines of" in caplog.text and "a warning\nthe reason" in caplog.text


def test_progress_bars_are_left_out_of_the_log_except_for_their_end(tmp_path):
    program = "import sys; sys.stderr.write('start\\n\\r10 %\\r50 %'); sys.stderr.write('\\r100 %\\nend\\n')"
    run_child([sys.executable, "-c", program], os.environ, tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text().splitlines()[-3:] == ["start", "100 %", "end"]


def test_somebody_who_watches_sees_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANATOMIX_PROGRESS", "1")
    run_child([sys.executable, "-c", "print('epoch 1 of 20'); print('epoch 2')"], os.environ, tmp_path / "log.txt")
    shown = capsys.readouterr().err
    assert shown.split("\r") == ["", "epoch 1 of 20", "epoch 2      ", " " * 7, ""] and "\n" not in shown


def test_nobody_watching_nothing_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ANATOMIX_PROGRESS", raising=False)
    run_child([sys.executable, "-c", "print('epoch 1')"], os.environ, tmp_path / "log.txt")
    assert capsys.readouterr().err == ""


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CommandFailed, match="no program 'nnUNetv9_train'"):
        run_child(["nnUNetv9_train"], os.environ, tmp_path / "log.txt")
