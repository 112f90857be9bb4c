"""Command line entry: parsing, running, and one-line errors with documented exit codes.

``ANATOMIX_DEBUG=1`` shows the traceback instead.
"""

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
"""Exit codes for a wrong command line, and for a closed pipe (shell convention). All other failures
have code 1.
"""
_OUR_MODULES = ("pretraining", "nnunet_anatomix", "__main__")
"""Top-level modules of this project; the last is that of ``python -m``."""


class WrongUsage(SystemExit):
    """Exit of a process with a wrong command line; its text is the error line."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = WRONG_USAGE


def run_commands(program: str, commands: Callable[[], Commands], description: str) -> None:
    """Parse ``sys.argv`` for one of the commands and run it.

    Args:
        program: Name shown in help and errors.
        commands: Function that returns subcommand → function; the annotations and docstring of a
            function define its flags.
        description: Text shown by ``--help``.

    Raises:
        SystemExit: With code 0 after ``--help`` and ``--version``. Without arguments, with code 2
            after printing the help to standard error. With one line on standard error and code 1
            for bad input, a failing disk or an unexpected error, 2 for wrong flags, 130 after
            Ctrl-C, 143 after SIGTERM; silently with code 141 when the reader of the output has
            closed the pipe (``| head``). With ``ANATOMIX_DEBUG=1`` the traceback is shown instead.
    """
    answer_version(program)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in _OUR_MODULES:
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with stop_signals_interrupt():
            _parse(program, commands(), description)()
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + signal_of(interrupt))
    except Interrupted as interrupted:
        log.warning("%s", interrupted)
        sys.exit(interrupted.exit_code)
    except BrokenPipeError:
        _exit_silently()
    except Exception as error:
        if os.environ.get("ANATOMIX_DEBUG"):
            raise
        message = " ".join(str(error).split())
        if isinstance(error, UsageError):
            _refuse(program, message)
        if isinstance(error, MemoryError):
            sys.exit(
                f"{program}: out of memory{f' ({message})' if message else ''}; "
                "close other programs, or process less data at once"
            )
        if message and _is_expected(error):
            sys.exit(f"{program}: {message}")
        sys.exit(
            f"{program}: unexpected {type(error).__name__}: {message[:500] or 'no message'}; "
            "this is an error of the software: please report it with the traceback, "
            "which ANATOMIX_DEBUG=1 before the same command shows"
        )


def _is_expected(error: Exception) -> bool:
    """Tell whether the message was written for users: by our code, or by the system about files."""
    if isinstance(error, (InputError, CommandFailed, OSError)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in frames][-1:]
    return isinstance(error, (ValueError, FloatingPointError)) and raised_in[0].split(".")[0] in _OUR_MODULES


def _parse(program: str, commands: Commands, description: str) -> Callable[[], Any]:
    """Return the command that the flags name, ready to be called.

    Wrong flags end the process with one line instead of tyro's box.
    """
    printed = io.StringIO()
    deferred = {name: _defer(command) for name, command in commands.items()}
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
        with contextlib.redirect_stderr(printed):
            return parse()
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.flush()
            raise
        text = re.sub(r"[─│╭╮╰╯]+|__tyro-dummy-inner__\.|For full helptext.*", " ", printed.getvalue(), flags=re.DOTALL)
        _refuse(program, " ".join(text.split()))


def _refuse(program: str, reason: str) -> NoReturn:
    """Exit with one line about the wrong command line."""
    line = f"{program}: {reason} (see {program} --help)"
    sys.stderr.write(f"{line}\n")
    raise WrongUsage(line)


def _exit_silently() -> NoReturn:
    """Exit without a message after the reader of the output has closed the pipe.

    Buffered output is discarded; otherwise Python would report an error when it flushes it.
    """
    null_device = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(null_device, stream.fileno())
    sys.exit(BROKEN_PIPE)


def _defer(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        for name, value in kwargs.items():
            _check_flag(name, value)
        return functools.partial(command, *args, **kwargs)

    return bind


def _check_flag(name: str, value: Any) -> None:
    """Raise InputError if a flag, or a field of a configuration, is NaN or infinite."""
    if dataclasses.is_dataclass(value):
        check_finite(value)
        return
    for field, number in not_finite(value, name):
        raise InputError(f"--{field.replace('_', '-')} must be a finite number, got {number}")
