"""How our commands fail: one clear line and a non-zero exit; the traceback is there for those who ask."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import tyro


def run_commands(program: str, commands: Callable[[], dict[str, Callable[..., Any]]], description: str) -> None:
    """Parse ``sys.argv`` for one of the commands and run it.

    Parameters
    ----------
    program : name shown in help and errors.
    commands : gives subcommand → function; a function's annotations and docstring make its flags.
    description : shown by ``--help``.

    Raises
    ------
    SystemExit
        With code 1 and one line on standard error for bad input or a failing disk, 130 after Ctrl-C; set
        ``ANATOMIX_DEBUG=1`` to see the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        tyro.extras.subcommand_cli_from_dict(commands(), prog=program, description=description)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("ANATOMIX_DEBUG"):
            raise
        sys.exit(f"{program}: {' '.join(str(error).split())}")
