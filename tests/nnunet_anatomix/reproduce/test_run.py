"""Tests of running a table: finished steps, failures and reports, with mock commands."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnunet_anatomix.reproduce import run as running
from nnunet_anatomix.reproduce.plan import Cell, Step, Table
from nnunet_anatomix.reproduce.run import run
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.tables import TABLES
from nnunet_anatomix.study.report import RunScore, write_rows
from pretraining.common.errors import CommandFailed, Interrupted
from pretraining.common.lock import InUse, hold_lock

_REPOSITORY = Path(__file__).resolve().parents[3]


class Commands:
    """Mock that records commands, writes the results of a study, and fails on request."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.fails_on = ""

    def __call__(self, words, environment, log_file, **_) -> None:
        self.asked.append(list(words))
        if self.fails_on and self.fails_on in words:
            raise CommandFailed("it did not work")
        out = Path(words[words.index("--out") + 1])
        start = words[words.index("--starts") + 1]
        shots = words[words.index("--shots") + 1] if "--shots" in words else "5"
        run_folder = out / "runs" / f"{Path(start).stem}_shots{shots}_seed0"
        run_folder.mkdir(parents=True, exist_ok=True)
        dice = {"weights": 0.8, "scratch": 0.5}.get(start, 0.6) + (0.1 if shots == "5" else 0)
        rows = [
            RunScore(start=start, shots=int(shots), seed=0, case=f"case{number}", label="a", dice=dice + 0.2 * number)
            for number in range(2)
        ]
        write_rows(run_folder / "dice.csv", rows)


@pytest.fixture
def commands(monkeypatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(running, "run_child", commands)
    return commands


@pytest.fixture
def settings(tmp_path) -> Settings:
    folder = tmp_path / "raw" / "Dataset012_Mice"
    (folder / "labelsTr").mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    for number in range(5):
        (folder / "labelsTr" / f"case{number}.nii.gz").touch()
    (tmp_path / "transfer.pth").touch()
    return Settings(
        data=tmp_path / "raw", out=tmp_path / "out", datasets=("12",), transfer=tmp_path / "transfer.pth", device="cpu"
    )


def numbers(settings: Settings, name: str) -> dict[tuple[str, str], dict[str, str]]:
    with (settings.out / f"{name}.csv").open(encoding="utf-8") as file:
        return {(row["row"], row["column"]): row for row in csv.DictReader(file)}


def test_our_numbers_stand_beside_the_papers(commands, settings):
    text = run(TABLES["table1"](settings), settings)
    found = {row: cell["ours"] for (row, _), cell in numbers(settings, "table1").items()}
    assert found == {
        "Rand Init": ".60(.07)",
        "Transfer Learning": ".70(.07)",
        "Ours": ".90(.07)",
        "Full supervision": ".70(.07)",
    }
    assert (
        re.search(r"\| Ours +\| \.90\(\.07\) \[–\] +\|", text)
        and (settings.out / "table1.md").read_text(encoding="utf-8") == text
    )


def test_what_is_finished_is_not_run_again_unless_it_would_be_another_command(commands, settings):
    run(TABLES["table1"](settings), settings)
    assert len(commands.asked) == 4
    run(TABLES["table1"](settings), settings)
    assert len(commands.asked) == 4
    (settings.out / "steps" / "study_Dataset012_Mice_3_scratch.json").write_text(json.dumps(["other"]))
    run(TABLES["table1"](settings), settings)
    assert len(commands.asked) == 5


def test_what_fails_does_not_stop_the_rest_and_is_tried_again(commands, settings):
    commands.fails_on = "weights"
    with pytest.raises(
        CommandFailed, match=r"1 of 4 steps failed .*: study_Dataset012_Mice_3_weights: it did not work"
    ):
        run(TABLES["table1"](settings), settings)
    found = {row: cell["ours"] for (row, _), cell in numbers(settings, "table1").items()}
    assert found["Ours"] == "" and found["Full supervision"] and found["Rand Init"]
    assert (settings.out / "failed.csv").read_text() == "name,reason\nstudy_Dataset012_Mice_3_weights,it did not work\n"
    commands.fails_on = ""
    run(TABLES["table1"](settings), settings)
    assert len(commands.asked) == 5 and numbers(settings, "table1")["Ours", "Mice"]["ours"] == ".90(.07)"
    assert not (settings.out / "failed.csv").exists()


def test_tables_share_what_they_have_in_common(commands, settings):
    run(TABLES["table1"](settings), settings)
    before = len(commands.asked)
    run(TABLES["table6"](settings), settings)
    assert len(commands.asked) == before and numbers(settings, "table6")["Ours", "Mice"]["ours"] == ".90(.07)"


def chain(settings: Settings) -> Table:
    steps = [
        Step(name="first", command=("one", "--out", "a")),
        Step(name="second", command=("two", "--out", "b"), after=("first",)),
    ]
    return Table(
        name="chain",
        title="A chain",
        steps=steps,
        cells=[Cell(row="r", column="c", steps=("second",), read=lambda: "1")],
    )


def test_a_step_waits_for_those_before_it(monkeypatch, settings):
    asked = []

    def fail(words, *_, **__):
        asked.append(words[0])
        raise CommandFailed("no")

    monkeypatch.setattr(running, "run_child", fail)
    with pytest.raises(CommandFailed, match=r"first: no; second: needs first"):
        run(chain(settings), settings)
    assert asked == ["one"]


def test_cells_that_cannot_be_had_cost_nothing(commands, settings):
    step = Step(name="one", command=("one",))
    cell = Cell(row="SMIT", column="c", paper=".5", steps=("one",), why_not="weights of others")
    text = run(Table(name="none", title="None", steps=[step], cells=[cell]), settings)
    assert (
        not commands.asked and "SMIT on c: weights of others." in text and re.search(r"\| SMIT +\| – \[\.5\] +\|", text)
    )


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_asked_to_stop_it_stops_what_it_runs_and_says_so(tmp_path, settings):
    started = tmp_path / "started"
    program = (
        f"import pathlib, subprocess, sys; pathlib.Path({str(started)!r}).touch(); subprocess.run(['sleep', '60'])"
    )
    steps = [Step(name=name, command=(sys.executable, "-c", program)) for name in ("first", "second")]
    cells = [Cell(row=step.name, column="c", steps=(step.name,), read=lambda: "1") for step in steps]

    def ask() -> None:
        for _ in range(600):
            if started.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted, match="stopped at step 1 of 2") as stop:
        run(Table(name="long", title="Long", steps=steps, cells=cells), settings)
    asking.join()
    assert stop.value.exit_code == 128 + signal.SIGTERM and not list((settings.out / "steps").glob("*"))
    sleeping = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(started) not in sleeping


def test_a_second_reproduction_in_the_same_folder_is_refused(commands, settings):
    with hold_lock(settings.out), pytest.raises(InUse, match="is in use by process"):
        run(TABLES["table1"](settings), settings)
    assert not commands.asked


def test_the_help_is_light():
    modules = "nnunet_anatomix.commands.reproduce, nnunet_anatomix.commands.prepare"
    code = f"import sys; import {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_REPOSITORY)
    assert run.stdout.strip() == "False"
