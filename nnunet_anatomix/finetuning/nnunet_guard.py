"""Bad input stops stock commands with one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import ParamSpec, TypeVar

from packaging.version import Version

from pretraining.common.errors import InputError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StoppedByInput(InputError, SystemExit):
    """An :class:`InputError` that ends a process with its line alone and exit code 1, where nobody catches it.

    nnU-Net's commands print a traceback for any other exception; Python callers still catch an
    ``InputError``.
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


OLDEST = "2.8"
"""Finds trainers outside of its own package, and builds networks as ours are written for."""


@stops_on_bad_input
def require_nnunet() -> str:
    """Installed version of nnU-Net.

    Raises:
        InputError: If there is none, or an older one than :data:`OLDEST`; uncaught, it ends stock
            commands with one line.
    """
    advice = f"run: pip install --upgrade 'nnunetv2>={OLDEST}'"
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        raise InputError(f"nnU-Net is not installed here; {advice}") from None
    if Version(found) < Version(OLDEST):
        raise InputError(f"nnU-Net {found} is too old for anatomix, expected {OLDEST} or newer; {advice}")
    return found
