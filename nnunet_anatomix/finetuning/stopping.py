"""Bad input stops stock commands with one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pretraining.errors import InputError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StoppedByInput(InputError, SystemExit):
    """An :class:`InputError` that ends a process with its line alone and exit code 1, where nobody catches it.

    nnU-Net's commands print a traceback for any other exception; Python callers still catch an ``InputError``.
    """

    def __init__(self, line: str) -> None:
        super().__init__(line)
        # What Python prints for an uncaught SystemExit.
        self.code = line


def stops_on_bad_input(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function``, its :class:`InputError` turned into :class:`StoppedByInput`."""

    @functools.wraps(function)
    def stopping(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except StoppedByInput:
            raise
        except InputError as error:
            raise StoppedByInput(f"Error: {error}") from None

    return stopping
