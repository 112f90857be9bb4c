"""Command line of ``nnunet-anatomix``: help texts, spelling of flags, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

from nnunet_anatomix.cli import _commands
from pretraining.common.command_help import by_name
from tests.in_process import run_here

COMMANDS = tuple(by_name(_commands()))


run = partial(run_here, "nnunet-anatomix")


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_every_command_has_help(arguments):
    result = run(*arguments)
    assert result.returncode == 0 and "usage: nnunet-anatomix" in result.stdout


def test_the_package_can_be_run_as_a_module():
    command = [sys.executable, "-m", "nnunet_anatomix", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "usage: nnunet-anatomix" in result.stdout


def test_flags_are_spelled_as_in_nnunet():
    text = run("plan", "--help-all").stdout
    assert all(flag in text for flag in ("-d,", "--iterations", "--weights", "-overwrite_plans_name"))


def test_bad_input_gives_one_line_and_a_non_zero_exit_code(nnunet):
    result = run("plan", "-d", "77")
    assert result.returncode == 1
    assert "no single dataset '77'" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
    assert not list(nnunet.preprocessed.iterdir())


def test_the_card_of_the_bundled_weights_is_shown():
    text = run("weights").stdout
    card = json.loads(run("weights", "--json-card").stdout)
    assert all(
        str(value) in text
        for value in (card["iterations"], card["hardware"], *card["templates"]["sources"], card["licence"])
    )
    assert "config" in card and "ensemble" not in text


def test_a_missing_weights_file_is_named(tmp_path):
    result = run("weights", str(tmp_path / "none.safetensors"))
    assert (
        result.returncode == 1
        and "none.safetensors" in result.stderr.splitlines()[-1]
        and "Traceback" not in result.stderr
    )
