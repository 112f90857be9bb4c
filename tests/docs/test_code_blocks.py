"""What tutorial and how-to pages tell a reader to type works: every block is run, or says why not, and every command line parses."""

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
from pretraining.engine.synthesis import EngineConfig
from tests.docs.pages import PAGES, RUNNABLE, SHOWN, commands, read_page, script

READ = [read_page(path) for path in PAGES]
OURS = {"anatomix-pretrain": pretraining.cli, "nnunet-anatomix": nnunet_anatomix.cli}
SHELL = {"cd", "export", "mkdir", "mv", "pip"}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="blocks are written for bash")


@pytest.mark.parametrize("page", READ, ids=str)
def test_every_block_is_run_or_says_why_not(page):
    for block in page.blocks:
        where = f"{page}, line {block.line}"
        assert block.language in (*RUNNABLE, *SHOWN), (
            f"{where}: a block of '{block.language}' is neither run nor known as shown only"
        )
        assert set(block.marks) <= {"not run", "file"}, f"{where}: unknown mark {block.marks}"
        assert all(len(reason) > 3 for reason in block.marks.values()), f"{where}: no reason"


@pytest.mark.parametrize(
    "page", [page for page in READ if any(block.language == "bash" for block in page.blocks)], ids=str
)
def test_every_command_line_parses(page):
    for block in page.blocks:
        for words in commands(block) if block.language == "bash" else []:
            with pytest.MonkeyPatch.context() as patch:
                # A page's store is not there yet.
                patch.setattr(pretraining.cli, "read_store_config", lambda path: SimpleNamespace(engine=EngineConfig()))
                try:
                    _parse(words, patch)
                except SystemExit as stop:
                    pytest.fail(f"{page}, block at line {block.line}: {' '.join(words)}: {stop.code}")


@needs_bash
@pytest.mark.parametrize(
    "page", [page for page in READ if not page.slow and any(block.runs for block in page.blocks)], ids=str
)
def test_a_reader_can_type_a_page(page, tmp_path, request):
    _type(page, tmp_path, request)


@needs_bash
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in READ if page.slow], ids=str)
def test_a_reader_can_type_a_long_page(page, tmp_path, request):
    _type(page, tmp_path, request)


def _type(page, folder: Path, request) -> None:
    for name, source in page.given.items():
        _give(request.getfixturevalue("data_root") / source, folder / name)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANATOMIX_", "nnUNet_"))}
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "ANATOMIX_ITERATIONS": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
    }
    typed = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=folder,
        env=inherited | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert typed.returncode == 0, typed.stdout[-5000:]


def _give(source: Path, place: Path) -> None:
    """Copy a folder, or write a scan on a grid half as fine: pages should take seconds."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(source)), [2, 2, 2]), str(place))


class Parsed(Exception):
    """A stock command has accepted its flags."""


def _parse(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Let the program's own parser read the words; SystemExit if it refuses them."""
    if words[0] == "torchrun":
        words = ["anatomix-pretrain", *words[words.index("-m") + 2 :]]
    program = words[0]
    if program in SHELL:
        return
    patch.setattr(sys, "argv", words)
    if program in OURS:
        found = OURS[program]._commands()
        patch.setattr(OURS[program], "_commands", lambda: {name: _idle(function) for name, function in found.items()})
        OURS[program].main()
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise Parsed

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    entry = next(one for one in metadata.entry_points(group="console_scripts") if one.name == program)
    with pytest.raises(Parsed):
        entry.load()()


def _idle(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def nothing(*args: object, **kwargs: object) -> None: ...

    return nothing
