"""Guards for stock nnU-Net commands: bad input or an old nnU-Net ends them with one line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import ParamSpec, TypeVar

from packaging.version import Version

from pretraining.common.errors import InputError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StoppedByInput(InputError, SystemExit):
    """:class:`InputError` that, uncaught, ends the process with only its line and exit code 1.

    nnU-Net's commands print a traceback for any other exception. Python callers can still catch it
    as an ``InputError``.
    """

    def __init__(self, line: str) -> None:
        super().__init__(line)
        # Python prints `code` for an uncaught SystemExit.
        self.code = line


def exit_on_bad_input(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate ``function`` to raise :class:`StoppedByInput` in place of :class:`InputError`."""

    @functools.wraps(function)
    def stopping(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except StoppedByInput:
            raise
        except InputError as error:
            sys.stdout.flush()  # nnU-Net's text, which would follow the line in a log
            raise StoppedByInput(f"Error: {error}") from None

    return stopping


OLDEST = "2.8"
"""Oldest supported nnU-Net.

The first that finds trainers outside of its own package and builds networks from ``arch_kwargs``.
"""


@exit_on_bad_input
def require_nnunet() -> str:
    """Return the installed version of nnU-Net.

    Raises:
        InputError: If it is missing or older than :data:`OLDEST`. Uncaught, the error ends stock
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
