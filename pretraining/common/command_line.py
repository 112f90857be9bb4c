"""How our commands end: one clear line and a code that scripts can tell apart; the traceback is there for those who ask."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from pretraining.common.config import check_finite, not_finite
from pretraining.common.errors import CommandFailed, InputError, Interrupted, UsageError
from pretraining.common.interruption import signal_of, stop_signals_interrupt
from pretraining.common.versions import answer_version

log = logging.getLogger(__name__)

Commands = dict[str, Callable[..., Any]]
WRONG_USAGE, BROKEN_PIPE = 2, 141
"""Exit codes: for unknown flags and missing arguments; as shells have it where the reader of a pipe
left. All else that fails has 1.
"""
_OURS = ("pretraining", "nnunet_anatomix", "__main__")
"""The last by ``python -m``."""


class WrongUsage(SystemExit):
    """The end of a process whose command line was wrong; the line is its text."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = WRONG_USAGE


def run_commands(program: str, commands: Callable[[], Commands], description: str) -> None:
    """Parse ``sys.argv`` for one of the commands and run it.

    Args:
        program: Name shown in help and errors.
        commands: Gives subcommand → function; a function's annotations and docstring make its
            flags.
        description: Shown by ``--help``.

    Raises:
        SystemExit: With code 0 after ``--help`` and ``--version``. Without any argument, with code
            2 after printing the help to standard error. With one line on standard error and code 1
            for bad input, a failing disk or an error that nobody foresaw, 2 for wrong flags, 130
            after Ctrl-C, 143 after SIGTERM; silently with code 141 when whoever reads the output
            has left (``| head``). Set ``ANATOMIX_DEBUG=1`` to see the traceback instead.
    """
    answer_version(program)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in _OURS:
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with stop_signals_interrupt():
            _parsed(program, commands(), description)()
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + signal_of(interrupt))
    except Interrupted as interrupted:
        log.warning("%s", interrupted)
        sys.exit(interrupted.exit_code)
    except BrokenPipeError:
        _leave_quietly()
    except Exception as error:
        if os.environ.get("ANATOMIX_DEBUG"):
            raise
        said = " ".join(str(error).split())
        if isinstance(error, UsageError):
            _refuse(program, said)
        if isinstance(error, MemoryError):
            sys.exit(
                f"{program}: memory ran out{f' ({said})' if said else ''}; close other programs, or take less at once"
            )
        if said and _is_foreseen(error):
            sys.exit(f"{program}: {said}")
        sys.exit(
            f"{program}: unexpected {type(error).__name__}: {said[:500] or 'it says nothing'}; this is an error of the software: "
            "ANATOMIX_DEBUG=1 before the same command shows where, please report it"
        )


def _is_foreseen(error: Exception) -> bool:
    """Whether the message was written for users: by our own code, or by the system about files."""
    if isinstance(error, (InputError, CommandFailed, OSError)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in frames][-1:]
    return isinstance(error, (ValueError, FloatingPointError)) and raised_in[0].split(".")[0] in _OURS


def _parsed(program: str, commands: Commands, description: str) -> Callable[[], Any]:
    """The command that the flags name, not yet run; wrong flags end the process with one line in place of tyro's box."""
    said = io.StringIO()
    deferred = {name: _deferred(command) for name, command in commands.items()}
    parse = functools.partial(
        tyro.extras.subcommand_cli_from_dict,
        deferred,
        prog=program,
        description=f"{description} --version prints versions.",
    )
    if not sys.argv[1:]:
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
            parse(args=["--help"])
        sys.exit(WRONG_USAGE)
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.flush()
            raise
        text = re.sub(r"[─│╭╮╰╯]+|__tyro-dummy-inner__\.|For full helptext.*", " ", said.getvalue(), flags=re.DOTALL)
        _refuse(program, " ".join(text.split()))


def _refuse(program: str, said: str) -> NoReturn:
    """End with what was wrong about the command line."""
    line = f"{program}: {said} (see {program} --help)"
    sys.stderr.write(f"{line}\n")
    raise WrongUsage(line)


def _leave_quietly() -> NoReturn:
    """End without a word; what is still in the output's buffer has nowhere to go, and Python would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    sys.exit(BROKEN_PIPE)


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
