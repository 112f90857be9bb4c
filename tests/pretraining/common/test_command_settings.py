"""``--config FILE``: what it takes, what precedes it, what it refuses, and where it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from pretraining.common.command_line import run_commands
from pretraining.common.versions import VERSION

RAN = []


@dataclass(frozen=True, kw_only=True)
class Group:
    """Flags of a group."""

    size_mm: float = 1.0
    """Size."""
    fine: bool = True
    """Fine or not."""


def work(
    source: Annotated[Path, tyro.conf.Positional],
    out: Path,
    group: Annotated[Group, tyro.conf.arg(name="")],
    names: tuple[str, ...] = (),
    limit: int | None = None,
) -> None:
    """Work."""
    RAN.append((source, out, group, names, limit))
    out.mkdir(exist_ok=True)


def run(monkeypatch, *words: object) -> object:
    RAN.clear()
    monkeypatch.setattr("sys.argv", ["program", *map(str, words)])
    run_commands("program", lambda: {"All": {"work": work, "other": work}}, "")
    return RAN[0]


@pytest.mark.parametrize(
    "text",
    [
        '{"source": "a", "out": "OUT", "size-mm": 2, "fine": false, "names": ["b", "c"], "limit": null}',
        "source: a\nout: OUT\nsize_mm: 2\nfine: no\nnames: [b, c]\n",
    ],
    ids=["json", "yaml"],
)
def test_flags_come_from_a_file_and_the_command_line_takes_precedence(monkeypatch, tmp_path, text):
    config = tmp_path / "c"
    config.write_text(text.replace("OUT", str(tmp_path / "out")))
    expected = (Path("a"), tmp_path / "out", Group(size_mm=2.0, fine=False), ("b", "c"), None)
    assert run(monkeypatch, "work", "--config", config) == expected
    changed = run(monkeypatch, "work", "z", "--config", config, "--limit", 3, "--fine")
    assert changed == (Path("z"), tmp_path / "out", Group(size_mm=2.0), ("b", "c"), 3)


def test_a_run_writes_its_settings_beside_its_results_and_repeats_from_them(monkeypatch, tmp_path):
    first = run(monkeypatch, "work", "a", "--out", tmp_path / "out", "--no-fine", "--names", "b")
    written = json.loads((tmp_path / "out" / "command.json").read_text())
    assert written["command"] == "program work" and written["version"] == VERSION
    assert written["settings"]["fine"] is False and written["settings"]["names"] == ["b"]
    assert run(monkeypatch, "work", "--config", tmp_path / "out" / "command.json") == first


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "neither JSON nor YAML"),
        ("[1]", "holds a list; expected flags by name"),
        ("nmes: [b]", "has 'nmes', which is no flag of work; nearest is names"),
        ('{"command": "program other", "settings": {}}', "is of program other; expected settings of program work"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(monkeypatch, tmp_path, text, named):
    (tmp_path / "c").write_text(text)
    with pytest.raises(SystemExit, match="program: --config: ") as caught:
        run(monkeypatch, "work", "--config", tmp_path / "c")
    assert named in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SystemExit, match="no file"):
        run(monkeypatch, "work", "--config", tmp_path / "none")


def test_a_command_without_out_writes_no_settings(monkeypatch, tmp_path):
    """Folders and queries of clinics may name patients."""

    def deliver(destination: Path) -> None:
        """Deliver."""
        destination.mkdir()

    monkeypatch.setattr("sys.argv", ["program", "deliver", "--destination", str(tmp_path / "d")])
    run_commands("program", lambda: {"All": {"deliver": deliver, "other": deliver}}, "")
    assert not list((tmp_path / "d").iterdir())
