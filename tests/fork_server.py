"""Linux's server of forks for ``process_server``; its modules do not exist on Windows."""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import random
import runpy
import sys
import threading
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from tests import process_server

PRELOADED = (
    "tests.fork_server",
    "pretraining.cli",
    "pretraining.learning.train",
    "pretraining.probing.judge",
    "nnunet_anatomix.cli",
    "nnunet_anatomix.finetuning.planning",
    "nnunet_anatomix.finetuning.trainer",
    "nnunetv2.run.run_training",
    "nnunetv2.inference.predict_from_raw_data",
    "matplotlib.figure",
    "tests.server_start",
)
_TRAINERS = str(Path(__file__).resolve().parents[1] / "nnunet_anatomix" / "trainers")


class _Process(ForkServerProcess):
    """Process with the variables of the process that starts it, not those of the server."""

    def __reduce__(self) -> tuple:
        return _begin, (dict(os.environ),), self.__dict__


def _begin(variables: dict[str, str]) -> _Process:
    """Make a fork what a new process would be."""
    os.environ.clear()
    os.environ.update(variables)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    process_server.lighten_planning()
    install()  # its own processes come from the same server
    server: Any = multiprocessing.forkserver._forkserver
    server.ensure_running = multiprocessing.resource_tracker.ensure_running
    return _Process.__new__(_Process)


class Context(ForkServerContext):
    """Context that stands for ``spawn``."""

    Process = _Process


def install() -> None:
    """Let the server start what would be spawned, by this process and by its processes."""
    multiprocessing.forkserver.set_forkserver_preload(list(PRELOADED))
    module: Any = multiprocessing.context
    module._concrete_contexts["spawn"] = Context()


def run_program(words: list[str], variables: dict[str, str], folder: str, files: list[str], is_leader: bool) -> None:
    """Do in a fork of the server what the interpreter does with these words."""
    for descriptor, file in zip((1, 2), files, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    if is_leader:
        os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    os.environ.setdefault("nnUNet_extTrainer", _TRAINERS)  # our .pth file does it in a new interpreter
    os.chdir(folder)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        # An interpreter waits for its threads before it joins processes, which the threads end.
        threading._shutdown()  # type: ignore[attr-defined]
