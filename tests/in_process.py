"""Run one of our commands in this process, which has torch and nnU-Net imported already."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from subprocess import CompletedProcess
from unittest import mock

import nnunet_anatomix.cli
import pretraining.cli

MAINS = {"anatomix-pretrain": pretraining.cli.main, "nnunet-anatomix": nnunet_anatomix.cli.main}


def run_here(program: str, *arguments: object) -> CompletedProcess:
    """Run a command and return its exit code and what it wrote, as ``subprocess.run`` does.

    For tests that ask what a command does, writes and says. What belongs to the process itself
    (signals, import time, exit at a broken pipe) needs a process of its own.
    """
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, code = root.handlers[:], 0
    root.handlers.clear()  # the command attaches its own to standard error, if there is none
    try:
        with (
            mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            MAINS[program]()
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):
            err.write(f"{code}\n")
            code = 1
    finally:
        root.handlers[:] = handlers
    return CompletedProcess([program, *map(str, arguments)], code, out.getvalue(), err.getvalue())
