"""Test the code blocks of tutorial and how-to pages.

Every block is run, or states why not, and every command line is accepted by its parser.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk

import nnunet_anatomix.cli
import pretraining.cli
import pretraining.commands.defaults
from pretraining.common.command_help import by_name
from pretraining.engine.synthesis import EngineConfig
from tests.docs.pages import PAGES, RUNNABLE, SHOWN, commands, read_page, script

CONTENTS = [read_page(path) for path in PAGES]
PROGRAMS = {"anatomix-pretrain": pretraining.cli, "nnunet-anatomix": nnunet_anatomix.cli}
SHELL = {"cd", "export", "mkdir", "mv", "pip"}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="blocks are written for bash")


@pytest.mark.parametrize("page", CONTENTS, ids=str)
def test_every_block_runs_or_states_why_not(page):
    for block in page.blocks:
        where = f"{page}, line {block.line}"
        assert block.language in (*RUNNABLE, *SHOWN), f"{where}: unknown language '{block.language}'"
        assert set(block.marks) <= {"not run", "file"}, f"{where}: unknown mark {block.marks}"
        assert all(len(reason) > 3 for reason in block.marks.values()), f"{where}: no reason"


@pytest.mark.parametrize(
    "page", [page for page in CONTENTS if any(block.language == "bash" for block in page.blocks)], ids=str
)
def test_every_command_line_parses(page, tmp_path):
    for block in page.blocks:
        for words in commands(block) if block.language == "bash" else []:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)  # in which the settings of commands are written
                # The store that a page makes does not exist here.
                patch.setattr(pretraining.commands.defaults, "read_store_config", _default_store_config)
                try:
                    _parse(words, patch)
                except SystemExit as stop:
                    pytest.fail(f"{page}, block at line {block.line}: {' '.join(words)}: {stop.code}")


@needs_bash
@pytest.mark.parametrize(
    "page", [page for page in CONTENTS if not page.slow and any(block.runs for block in page.blocks)], ids=str
)
def test_blocks_of_a_page_run(page, tmp_path, request):
    _run_blocks(page, tmp_path, request)


@needs_bash
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in CONTENTS if page.slow], ids=str)
def test_blocks_of_a_slow_page_run(page, tmp_path, request):
    _run_blocks(page, tmp_path, request)


def _run_blocks(page, folder: Path, request) -> None:
    for name, source in page.given.items():
        _copy_data(request.getfixturevalue("data_root") / source, folder / name)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANATOMIX_", "nnUNet_"))}
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "ANATOMIX_ITERATIONS": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
    }
    finished = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=folder,
        env=inherited | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert finished.returncode == 0, finished.stdout[-5000:]


def _copy_data(source: Path, target: Path) -> None:
    """Copy a folder, or write a scan at half its resolution, so that pages take seconds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(source)), [2, 2, 2]), str(target))


def _default_store_config(store: Path) -> SimpleNamespace:
    return SimpleNamespace(engine=EngineConfig())


class Parsed(Exception):
    """Raised when a stock command has accepted its flags."""


def _parse(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Parse the words with the program's own parser, which raises SystemExit if it refuses them."""
    if words[0] == "torchrun":
        words = ["anatomix-pretrain", *words[words.index("-m") + 2 :]]
    program = words[0]
    if program in SHELL:
        return
    patch.setattr(sys, "argv", words)
    if program in PROGRAMS:
        functions = by_name(PROGRAMS[program]._commands())
        patch.setattr(
            PROGRAMS[program],
            "_commands",
            lambda: {"All": {name: _without_effect(function) for name, function in functions.items()}},
        )
        PROGRAMS[program].main()
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise Parsed

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    entry = next(one for one in metadata.entry_points(group="console_scripts") if one.name == program)
    with pytest.raises(Parsed):
        entry.load()()


def _without_effect(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def nothing(*args: object, **kwargs: object) -> None: ...

    return nothing
