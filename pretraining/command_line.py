"""How our commands fail: one clear line and a non-zero exit; the traceback is there for those who ask."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from pretraining.config import check_finite, not_finite
from pretraining.errors import CommandFailed, InputError, Interrupted

log = logging.getLogger(__name__)

Commands = dict[str, Callable[..., Any]]


def run_commands(program: str, commands: Callable[[], Commands], description: str) -> None:
    """Parse ``sys.argv`` for one of the commands and run it.

    Parameters
    ----------
    program : name shown in help and errors.
    commands : gives subcommand → function; a function's annotations and docstring make its flags.
    description : shown by ``--help``.

    Raises
    ------
    SystemExit
        With code 1 and one line on standard error for bad input or a failing disk, 130 after Ctrl-C, 143 after SIGTERM; set
        ``ANATOMIX_DEBUG=1`` to see the traceback instead.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("pretraining", "nnunet_anatomix", "__main__"):  # the last by python -m
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        _parsed(program, commands(), description)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Interrupted as interrupted:
        log.warning("%s", interrupted)
        sys.exit(interrupted.exit_code)
    except (ValueError, OSError, FloatingPointError, CommandFailed) as error:
        if os.environ.get("ANATOMIX_DEBUG"):
            raise
        sys.exit(f"{program}: {' '.join(str(error).split())}")


def _parsed(program: str, commands: Commands, description: str) -> Callable[[], Any]:
    """The command that the flags name, not yet run; wrong flags end the process with one line in place of tyro's box."""
    said = io.StringIO()
    deferred = {name: _deferred(command) for name, command in commands.items()}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(deferred, prog=program, description=description)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        text = re.sub(r"[─│╭╮╰╯]+|__tyro-dummy-inner__\.|For full helptext.*", " ", said.getvalue(), flags=re.DOTALL)
        sys.exit(f"{program}: {' '.join(text.split())} (see {program} --help)")


def _deferred(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    @functools.wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        for name, value in kwargs.items():
            _check_flag(name, value)
        return functools.partial(command, *args, **kwargs)

    return later


def _check_flag(name: str, value: Any) -> None:
    """Raise InputError if a flag, or a field of a configuration, is a number that is NaN or infinite."""
    if dataclasses.is_dataclass(value):
        check_finite(value)
        return
    for field, number in not_finite(value, name):
        raise InputError(f"--{field.replace('_', '-')} must be a finite number, got {number}")
