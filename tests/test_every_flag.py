"""Every flag of every command runs once on miniature data; a missing one fails here by name."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import tyro
from safetensors import safe_open

import nnunet_anatomix.cli
import pretraining.cli
from pretraining.backbone.weights import load_weights
from pretraining.common.command_help import by_name
from pretraining.common.command_line import parse_command
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from tests.config_flags import flags_of, leaves, value_of
from tests.flag_cases import CASES, LEFT_OUT, NNUNET, PRETRAIN, Case, as_parameter, found
from tests.flag_material import LEFT, Material, changed_config, second_config

PROGRAMS = {PRETRAIN: pretraining.cli, NNUNET: nnunet_anatomix.cli}


def commands() -> list[tuple[str, str, Callable[..., None]]]:
    return [
        (program, name, command)
        for program, cli in PROGRAMS.items()
        for name, command in by_name(cli._commands()).items()
    ]


def options(command: Callable[..., None]) -> set[str]:
    """Return every spelling of every flag of a command, positional arguments by their name."""
    with warnings.catch_warnings():
        # tyro's parser objects are deprecated; its help lists the same flags.
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(command)
    names = {name for action in parser._actions for name in action.option_strings or [f"<{action.dest}>"]}
    return names - {"-h", "--help"}


def given(program: str, command: str) -> set[str]:
    """The flags that the lines of all cases give; those of whole configurations both ways."""
    lines = [case.words(line) for case in CASES if case.program == program for line in case.lines]
    words = {word for line in lines if line[0] == command for word in line[1:] if word.startswith("-")}
    if {"--engine.side", "--steps"} & words:  # the other way of a switch is parsed below
        both = {*flags_of(changed_config()), *flags_of(second_config())}
        prefix = "--engine." if command == "synthesize" else "--"
        words |= {word for word in both if word.startswith(prefix)}
    return words


@pytest.mark.parametrize(
    ("program", "command", "function"), [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in commands()]
)
def test_every_flag_is_given_by_a_line(program, command, function):
    wanted = {name for name in options(function) if not name.startswith("<")}
    excused = {flag for where, name, flag in LEFT_OUT if (where, name) == (program, command)}
    assert any(case.program == program and line.split()[0] == command for case in CASES for line in case.lines), (
        f"no line runs {command}"
    )
    missing = sorted(wanted - excused - given(program, command))
    assert not missing, (
        f"{program} {command}: no line of tests/flag_cases.py gives {', '.join(missing)}; add them to one, with a value"
    )
    assert excused <= wanted, (
        f"{program} {command} has no flag {', '.join(sorted(excused - wanted))}: take it out of LEFT_OUT"
    )


def test_what_is_left_out_is_no_more_than_it_was():
    assert len(LEFT_OUT) == 3 and all(LEFT_OUT.values())
    assert len(LEFT) == 5 and all(LEFT.values())


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return Material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def place(tmp_path, monkeypatch, nnunet, material, small_judged_samples) -> Path:
    """A new folder to run in, with a dataset for nnU-Net and commands that stand for Slurm's."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in (("srun", "exit 0"), ("sbatch", f'cp "$1" {tmp_path}/submitted.sh\necho Submitted batch job 71')):
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]]))
    (nnunet.raw / "Dataset043_Blobs").symlink_to(material.raw / "Dataset043_Blobs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", [as_parameter(case) for case in CASES])
def test_a_line_with_every_flag_runs(case: Case, place, material, monkeypatch, capsys):
    for line in case.lines:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [case.program, *case.words(line, material)])
        PROGRAMS[case.program].main()
    assert case.says in capsys.readouterr().out
    missing = [pattern for pattern in case.makes if not found(place, pattern)]
    assert not missing, sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


def parsed(monkeypatch, *words: str) -> TrainConfig:
    """The configuration that the command would run with."""
    monkeypatch.setattr(sys, "argv", [PRETRAIN, *words])
    keywords = parse_command(PRETRAIN, pretraining.cli._commands(), "").keywords
    return keywords.get("config") or keywords["engine"]


@pytest.mark.parametrize("make", [changed_config, second_config, lambda: load_preset(TrainConfig, "short")])
def test_flags_of_a_configuration_make_that_configuration(monkeypatch, make):
    config = make()
    words = flags_of(config)
    assert parsed(monkeypatch, "train", "--out", "x", *words) == config
    assert parsed(monkeypatch, "train", "--out", "x", "--preset", "paper", *words) == config
    assert parsed(monkeypatch, "preview", "--out", "x.png", *words) == config
    of_engine = flags_of(config.engine, "engine.")
    assert (
        parsed(monkeypatch, "synthesize", "--templates", "x", "--out", "x", "--count", "1", *of_engine) == config.engine
    )


def test_every_field_is_changed_in_one_of_both_configurations():
    short, one, two = load_preset(TrainConfig, "short"), changed_config(), second_config()
    kept = {name for name, _ in leaves(TrainConfig) if value_of(one, name) == value_of(short, name)}
    assert kept == LEFT.keys()
    assert all(value_of(two, name) != value_of(short, name) for name in kept)


def test_half_precision_and_notes_reach_the_exported_file(place, material, monkeypatch):
    """Flags whose effect no file's name shows."""
    lines = Case(
        "export",
        PRETRAIN,
        (
            "train --out run --samples {store} --preset {small} --device cpu --workers 0",
            "export run --out a.safetensors --half --notes 'of a test'",
        ),
    )
    for line in lines.lines:
        monkeypatch.setattr(sys, "argv", [PRETRAIN, *lines.words(line, material)])
        pretraining.cli.main()
    with safe_open("a.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} >= {torch.float16}  # noqa: SIM118
    assert load_weights("a.safetensors").card["notes"] == "of a test"
