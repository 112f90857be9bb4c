"""Command line entry: parsing, running, and one-line errors with documented exit codes.

``ANATOMIX_DEBUG=1`` shows the traceback instead.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import inspect
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, get_origin, get_type_hints

import tyro

from pretraining.common.command_help import Command, Groups, by_name, describe_command, flags_of, list_commands, nearest
from pretraining.common.command_output import OUR_PACKAGES, Verbosity, command_output
from pretraining.common.command_settings import read_settings, words_of, write_settings
from pretraining.common.config import check_finite, not_finite
from pretraining.common.errors import CommandFailed, InputError, Interrupted, UsageError
from pretraining.common.interruption import signal_of, stop_signals_interrupt
from pretraining.common.versions import answer_version

log = logging.getLogger(__name__)

WRONG_USAGE, BROKEN_PIPE = 2, 141
"""Exit codes for a wrong command line, and for a closed pipe (shell convention). All other failures
have code 1.
"""


class WrongUsage(SystemExit):
    """Exit of a process with a wrong command line; its text is the error line."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = WRONG_USAGE


def run_commands(program: str, commands: Callable[[], Groups], description: str) -> None:
    """Parse ``sys.argv`` for one of the commands and run it.

    Args:
        program: Name shown in help and errors.
        commands: Function that returns the commands by name, in groups by title; the annotations
            and docstring of a function define its flags. A command may return the paths of its
            results, beside which its settings are written; else they go to its output folder.
        description: Sentence shown by ``--help``.

    Raises:
        SystemExit: With code 0 after ``--help``, ``--help-all`` and ``--version``. Without
            arguments, with code 2 after printing the help to standard error. With one line on
            standard error and code 1 for bad input, a failing disk or an unexpected error, 2 for
            wrong flags, 130 after Ctrl-C, 143 after SIGTERM; silently with code 141 when the
            reader of the output has closed the pipe (``| head``). With ``ANATOMIX_DEBUG=1`` the
            traceback is shown instead.
    """
    answer_version(program)
    name = ""
    with contextlib.ExitStack() as stack:
        try:
            verbosity, config, words = _take_common_flags(sys.argv[1:])
            name = words[0] if words else ""
            stack.enter_context(command_output(verbosity))
            stack.enter_context(stop_signals_interrupt())
            if config is not None:
                words = _with_settings(program, commands(), words, config)
            sys.argv[1:] = words  # commands may take their defaults from the command line
            parsed = parse_command(program, commands(), description)
            _write_settings(program, parsed, parsed.run())
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
                _refuse(program, name, message)
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


class ParsedCommand(NamedTuple):
    """A command with the values of its parameters.

    Attributes:
        name: Name of the command.
        function: Function of the command.
        keywords: Values by parameter.
    """

    name: str
    function: Command
    keywords: dict[str, Any]

    def run(self) -> Any:
        """Run the command."""
        return self.function(**self.keywords)


def parse_command(program: str, groups: Groups, description: str) -> ParsedCommand:
    """Return the command that ``sys.argv`` names, with the values of its flags.

    Args:
        program: Name of the program.
        groups: Commands.
        description: Sentence shown by ``--help``.

    Raises:
        SystemExit: With code 0 after a help text, 2 for a wrong command line.
        InputError: If a number is not finite.
    """
    commands = by_name(groups)
    words = sys.argv[1:]
    if not words:
        sys.stderr.write(list_commands(program, groups, f"{description} --version prints versions."))
        sys.exit(WRONG_USAGE)
    name, *rest = words
    if name in ("-h", "--help", "--help-all"):
        _show(list_commands(program, groups, f"{description} --version prints versions."))
    if name.startswith("--tyro-"):  # --tyro-print-completion and --tyro-write-completion
        tyro.extras.subcommand_cli_from_dict(commands, prog=program, args=words)
    if name not in commands:
        near = nearest(name, tuple(commands))
        _refuse(program, "", f"no command '{name}'{f'; nearest is {near}' if near else ''}")
    if {"-h", "--help", "--help-all"} & set(rest):
        _show(describe_command(program, name, commands[name], with_rare="--help-all" in rest))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            keywords = tyro.cli(_defer(commands[name]), prog=f"{program} {name}", args=rest)
    except SystemExit:
        if not rest:
            sys.stderr.write(describe_command(program, name, commands[name], with_rare=False) + "\n")
        _refuse(program, name, _explain(printed.getvalue(), rest, flags_of(commands[name])))
    return ParsedCommand(name, commands[name], keywords)


def _take_common_flags(words: list[str]) -> tuple[Verbosity, Path | None, list[str]]:
    """Take the flags that every command has; return the others."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--log-file", type=Path)
    parser.add_argument("--config", type=Path)
    known, others = parser.parse_known_args(words)
    if known.verbose and known.quiet:
        raise UsageError("--verbose and --quiet exclude each other")
    return Verbosity(verbose=known.verbose, quiet=known.quiet, log_file=known.log_file), known.config, others


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _with_settings(program: str, groups: Groups, words: list[str], config: Path) -> list[str]:
    """Put the flags of a file before those of the command line, which take precedence."""
    commands = by_name(groups)
    if not words or words[0] not in commands:
        return words
    name, *rest = words
    spellings = flags_of(commands[name])
    flags, others = words_of(read_settings(config, program, name), spellings)
    arguments = [parameter for parameter, hint in _hints(commands[name]).items() if _is_positional(hint)]
    if unknown := sorted(set(others) - set(arguments)):
        near = nearest(unknown[0], [*(one.lstrip("-") for one in spellings), *arguments])
        raise InputError(
            f"--config: {config} has '{unknown[0]}', which is no flag of {name}{f'; nearest is {near}' if near else ''}"
        )
    given = next((number for number, word in enumerate(rest) if word.startswith("-")), len(rest))
    ordered = [word for argument in arguments for word in others.get(argument, [])]
    return [name, *(rest[:given] or ordered), *flags, *rest[given:]]


def _write_settings(program: str, parsed: ParsedCommand, returned: Any) -> None:
    hints = _hints(parsed.function)
    values = [(_flag_name(name, hints.get(name)), value) for name, value in parsed.keywords.items()]
    try:
        write_settings(program, parsed.name, values, returned)
    except (InputError, CommandFailed, OSError) as error:
        log.warning("the settings were not written: %s", error)


def _hints(command: Command) -> dict[str, Any]:
    return get_type_hints(command, include_extras=True)


def _is_positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and tyro.conf.Positional in hint.__metadata__


def _flag_name(parameter: str, hint: Any) -> str:
    """Return the name of a parameter on the command line; empty if its fields have no prefix."""
    given = [getattr(mark, "name", None) for mark in getattr(hint, "__metadata__", ())]
    return next((name for name in given if name is not None), parameter)


def _show(text: str) -> NoReturn:
    sys.stdout.write(text)
    sys.stdout.flush()
    sys.exit(0)


def _explain(text: str, words: Sequence[str], spellings: Sequence[str]) -> str:
    """Return one line: the first unknown flag and the nearest known one, or the text of tyro."""
    for word in words:
        flag = word.partition("=")[0]
        bare = flag.replace("_", "-") if flag.startswith("--") else flag
        if re.match(r"--?[A-Za-z]", flag) and bare not in spellings and flag not in spellings:
            near = nearest(flag, spellings)
            return f"no flag {flag}{f'; nearest is {near}' if near else ''}"
    text = re.sub(r"[─│╭╮╰╯]+|-{3,}|__tyro-dummy-inner__\.|For full helptext.*", " ", text, flags=re.DOTALL)
    line = re.sub(r"^(Invalid choice|Value error|Parsing error) ", "", " ".join(text.split()))
    return re.sub(r"^Required options Missing from .*?: ", "missing ", line)


def _is_expected(error: Exception) -> bool:
    """Tell whether the message was written for users: by our code, or by the system about files."""
    if isinstance(error, (InputError, CommandFailed, OSError)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in frames][-1:]
    return isinstance(error, (ValueError, FloatingPointError)) and raised_in[0].split(".")[0] in OUR_PACKAGES


def _refuse(program: str, name: str, reason: str) -> NoReturn:
    """Exit with one line about the wrong command line."""
    line = f"{program}: {reason} (see {' '.join([program, name]).strip()} --help)"
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


def _defer(command: Command) -> Callable[..., dict[str, Any]]:
    """Return a function with the flags of a command that returns their values."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> dict[str, Any]:
        values = inspect.signature(command).bind(*args, **kwargs).arguments
        for name, value in values.items():
            _check_flag(name, value)
        return values

    return bind


def _check_flag(name: str, value: Any) -> None:
    """Raise InputError if a flag, or a field of a configuration, is NaN or infinite."""
    if dataclasses.is_dataclass(value):
        check_finite(value)
        return
    for field, number in not_finite(value, name):
        raise InputError(f"--{field.replace('_', '-')} must be a finite number, got {number}")
