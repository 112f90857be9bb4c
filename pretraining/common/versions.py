"""The version, and the output of ``--version``, without importing torch."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

VERSION = "0.2.0rc1"
"""Version of both packages; the only place that states it."""
_DEPENDENCIES = ("torch", "nnunetv2")
"""Distributions whose versions are printed; those that are not installed are omitted."""


def version_line(program: str) -> str:
    """Return one line with the versions of the program, of Python and of main dependencies.

    Args:
        program: Name of the console script.

    Returns:
        For example ``nnunet-anatomix 0.2.0 (Python 3.12.1, torch 2.6.0, nnunetv2 2.8.1)``. Versions
        of dependencies come from their installed metadata; no dependency is imported.
    """
    found = [f"Python {platform.python_version()}"]
    for name in _DEPENDENCIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{program} {VERSION} ({', '.join(found)})"


def answer_version(program: str) -> None:
    """Print the versions and exit if ``--version`` is the first argument.

    Args:
        program: Name of the console script.

    Raises:
        SystemExit: With code 0, after printing to standard output.
    """
    if sys.argv[1:2] == ["--version"]:
        sys.stdout.write(f"{version_line(program)}\n")
        sys.stdout.flush()
        sys.exit(0)
