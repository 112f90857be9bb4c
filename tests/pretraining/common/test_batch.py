"""A failed item does not stop the others, and repeating the call resumes."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest

from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.errors import CommandFailed, InputError, Interrupted
from pretraining.common.lock import InUse

ITEMS = {name: name for name in "abcd"}


def failing(names: str, asked: list[str]):
    def work(name: str) -> None:
        asked.append(name)
        if name in names:
            raise InputError(f"{name}: no scan,\nbut a thesis")

    return work


def listed(folder: Path) -> dict[str, str]:
    with (folder / FAILURES).open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def test_what_fails_is_listed_and_the_others_are_done(tmp_path):
    asked = []
    outcome = run_batch(ITEMS, failing("bd", asked), noun="scan", failures=tmp_path)
    assert asked == list("abcd") and (outcome.done, set(outcome.failed)) == (2, {"b", "d"})
    assert listed(tmp_path) == {"b": "no scan, but a thesis", "d": "no scan, but a thesis"}
    with pytest.raises(
        CommandFailed, match=rf"2 of 4 scans failed \(all in {tmp_path}/{FAILURES}\): b: no scan, but a thesis; d: "
    ):
        outcome.require_all("scans", see=tmp_path / FAILURES)


def test_a_second_call_does_what_is_missing_and_clears_the_list(tmp_path):
    run_batch(ITEMS, failing("bd", []), noun="scan", failures=tmp_path)
    asked = []
    outcome = run_batch({"b": "b"}, failing("", asked), noun="scan", failures=tmp_path)
    assert set(listed(tmp_path)) == {"d"}, "what another call failed at is still listed"
    outcome = run_batch(ITEMS, failing("", asked), noun="scan", failures=tmp_path, is_done=lambda name: name != "d")
    outcome.require_all("scans")
    assert asked == ["b", "d"] and outcome.done == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(36, "File name too long"), RuntimeError("CUDA out of memory")]
)
def test_whatever_ends_an_item_is_its_own_failure(error):
    def work(name: str) -> None:
        raise error

    outcome = run_batch({"a": "a"}, work, noun="scan")
    assert outcome.failed["a"] == (" ".join(str(error).split()) or "MemoryError")


def test_asking_whether_an_item_is_done_may_fail(tmp_path):
    def is_done(name: str) -> bool:
        raise OSError("no such disk")

    assert run_batch({"a": "a"}, failing("", []), noun="scan", is_done=is_done).failed == {"a": "no such disk"}


def test_a_mistake_in_the_code_is_no_failure_of_an_item():
    def work(name: str) -> None:
        raise TypeError

    with pytest.raises(TypeError):
        run_batch({"a": "a"}, work, noun="scan")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_answered_at_once(tmp_path, number):
    asked = []
    before = signal.getsignal(number)

    def work(name: str) -> None:
        asked.append(name)
        if name == "b":
            os.kill(os.getpid(), number)
            for _ in range(10**8):
                pass
            asked.append("never")

    with pytest.raises(Interrupted, match="stopped at scan 2 of 4; run the same command again") as stopped:
        run_batch(ITEMS, work, noun="scan", failures=tmp_path)
    assert asked == ["a", "b"] and stopped.value.exit_code == 128 + number and signal.getsignal(number) == before
    assert not list(tmp_path.iterdir()), "an item that was interrupted did not fail"


def test_an_item_of_another_process_is_left_to_it(tmp_path):
    def work(name: str) -> None:
        if name == "a":
            raise InUse("OUT/a is in use by process 7 on node17")

    outcome = run_batch(ITEMS, work, noun="run", failures=tmp_path)
    assert outcome.done == 3 and not outcome.failed and not list(tmp_path.iterdir())
    with pytest.raises(CommandFailed, match=r"1 of 4 runs are in use by other processes \(a: .*process 7 on node17"):
        outcome.require_all("runs")
