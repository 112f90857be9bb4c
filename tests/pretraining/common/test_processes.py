"""Parallel work is complete, limited in flight, and reports lost processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretraining.common.processes import ProcessLost, available_cores, imap_unordered

WAITS = (
    "import time; from pretraining.common.processes import imap_unordered; "
    "print(*imap_unordered(time.sleep, [300, 300], processes=2))"
)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_comes_back_with_its_result(processes):
    assert sorted(imap_unordered(math.sqrt, range(20), processes=processes)) == [(i, math.sqrt(i)) for i in range(20)]
    assert list(imap_unordered(math.sqrt, [], processes=processes)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_items_are_taken_as_they_are_needed(processes):
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    results = imap_unordered(math.sqrt, items(), processes=processes)
    next(results)
    assert len(taken) <= 2 * processes
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_the_callers(processes):
    with pytest.raises(ValueError, match="math domain"):
        list(imap_unordered(math.sqrt, [4.0, -1.0], processes=processes))


def test_a_process_ended_from_outside_is_reported_with_its_work():
    with pytest.raises(ProcessLost) as lost:
        list(imap_unordered(os._exit, [9, 8], processes=2))
    assert set(lost.value.items) <= {8, 9} and lost.value.items


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_parent():
    with subprocess.Popen([sys.executable, "-c", WAITS], stderr=subprocess.DEVNULL) as parent:
        while len(workers := spawned(parent.pid)) < 2:
            assert parent.poll() is None, "the parent ended before its workers began"
            time.sleep(0.05)
        time.sleep(1.0)  # until they have started
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_is_the_parents_alone():
    code = f"import time, signal; signal.signal(signal.SIGINT, signal.default_int_handler); {WAITS.replace('300', '2')}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        while len(workers := spawned(parent.pid)) < 2:
            assert parent.poll() is None, "the parent ended before its workers began"
            time.sleep(0.01)
        for worker in workers:  # while they start, when Python would print a traceback
            os.kill(worker, signal.SIGINT)
        said, complained = parent.communicate()
    assert parent.returncode == 0 and said.strip() == "(2, None) (2, None)" and not complained


def spawned(parent: int) -> list[int]:
    """List the workers of a process, without its resource tracker, which ends by itself."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [pid for pid in children if alive(pid) and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_there_is_a_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
