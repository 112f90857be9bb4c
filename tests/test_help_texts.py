"""The help of every command fits on a screen, and settings from files equal flags."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import nnunet_anatomix.cli
import pretraining.cli
import pretraining.commands.defaults
from pretraining.common.command_help import by_name, describe_command, flags_of
from pretraining.common.command_line import _flag_name, _hints, _with_settings, parse_command
from pretraining.common.command_settings import write_settings
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from tests.flag_cases import CASES, PRETRAIN
from tests.in_process import run_here

PROGRAMS = {"anatomix-pretrain": pretraining.cli, "nnunet-anatomix": nnunet_anatomix.cli}
COMMANDS = [(program, name) for program, cli in PROGRAMS.items() for name in by_name(cli._commands())]
LINES, COLUMNS = 40, 100


@pytest.mark.parametrize(("program", "words"), [*((one, []) for one in PROGRAMS), *((p, [c]) for p, c in COMMANDS)])
def test_a_help_text_fits_on_a_screen(program, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    text = run_here(program, *words, "--help").stdout
    lines = text.splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS
    assert lines[0].startswith(f"usage: {' '.join([program, *words])} ")
    assert "…" not in text and "``" not in text and "(default: None)" not in text


def test_help_all_shows_every_flag(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    for program, name in COMMANDS:
        command = by_name(PROGRAMS[program]._commands())[name]
        shown = set(re.split(r"[\s,;]+", describe_command(program, name, command, with_rare=True)))
        assert all("no-" in flag for flag in set(flags_of(command)) - shown), name  # the opposite of what is off


def parsed_lines() -> list[tuple[str, list[str]]]:
    return [(case.program, case.words(line)) for case in CASES for line in case.lines]


@pytest.mark.parametrize(("program", "words"), parsed_lines(), ids=lambda one: one[0] if isinstance(one, list) else "")
def test_settings_of_a_file_are_the_flags_they_were(program, words, monkeypatch, tmp_path):
    """Every command line of the flags' tests, through the file that the command writes."""
    monkeypatch.setattr(pretraining.commands.defaults, "load_preset", lambda *_: load_preset(TrainConfig, "short"))
    monkeypatch.setattr(pretraining.commands.defaults, "read_store_config", lambda _: load_preset(TrainConfig, "short"))

    def parse(line: list[str]):
        monkeypatch.setattr(sys, "argv", [program, *line])
        return parse_command(program, PROGRAMS[program]._commands(), "")

    first = parse(words)
    hints = _hints(first.function)
    values = [(_flag_name(name, hints.get(name)), value) for name, value in first.keywords.items()]
    (tmp_path / "results").mkdir()
    write_settings(program, first.name, values, [tmp_path / "results"])
    file = tmp_path / "results" / "command.json"
    file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text())["settings"]))
    for config in (file, file.with_suffix(".yaml")):
        monkeypatch.setattr(sys, "argv", [program, words[0]])
        again = parse(_with_settings(program, PROGRAMS[program]._commands(), [words[0]], Path(config)))
        assert again.keywords == first.keywords
    assert program != PRETRAIN or words[0] in by_name(pretraining.cli._commands())
