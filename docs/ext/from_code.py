"""Pages that the code writes: a line ``<!-- help of PROGRAM -->`` or ``<!-- modules of PACKAGE -->`` becomes what it names.

The first is the ``--help`` of every command of a program, the second the reference of every module
of a package, its sub-packages left out. Both are made anew at every build, so that they cannot fall
behind.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from sphinx.application import Sphinx

CLI_MODULES = {"anatomix-pretrain": "pretraining.cli", "nnunet-anatomix": "nnunet_anatomix.cli"}
_RULE = re.compile(r"\s*-{3,}\s*")
_PLACE = re.compile(r"^<!-- (help|modules) of (\S+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _fill_in)
    app.connect(
        "env-get-outdated",
        lambda app, env, *_: [name for name in env.found_docs if _from_code(Path(env.doc2path(name)))],
    )
    return {"parallel_read_safe": True}


def commands_of(program: str) -> list[str]:
    """Names of a program's commands, in the order of its help."""
    return list(importlib.import_module(CLI_MODULES[program])._commands())


def help_of(program: str, *command: str) -> str:
    """What ``PROGRAM [COMMAND] --help`` prints on a terminal of 88 columns."""
    main = importlib.import_module(CLI_MODULES[program]).main
    shown = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [program, *command, "--help"]),
        mock.patch.dict(os.environ, {"COLUMNS": "90", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        main()
    return "\n".join(_unframed(shown.getvalue().splitlines())).strip()


def modules_of(package: str) -> list[str]:
    """Dotted names of a package and its modules: no sub-packages, and no commands, which their own pages show."""
    found = importlib.import_module(package)
    names = [package, *(f"{package}.{one.name}" for one in pkgutil.iter_modules(found.__path__) if not one.ispkg)]
    shown = [name for name in names if not name.endswith(("cli", "_command", "__main__", "_kernel"))]
    return [name for name in shown if importlib.import_module(name).__doc__]


def _fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = _PLACE.sub(
        lambda place: {"help": _command_sections, "modules": _module_sections}[place[1]](place[2]), source[0]
    )


def _from_code(path: Path) -> bool:
    return path.suffix == ".md" and _PLACE.search(path.read_text(encoding="utf-8")) is not None


def _command_sections(program: str) -> str:
    sections = [f"```text\n{help_of(program)}\n```\n"]
    sections += [
        f"## {program} {command}\n\n```text\n{help_of(program, command)}\n```\n" for command in commands_of(program)
    ]
    return "\n".join(sections)


def _module_sections(package: str) -> str:
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in modules_of(package))


def _unframed(lines: list[str]) -> Iterator[str]:
    """Without the rules that tyro draws below its titles."""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not _RULE.fullmatch(line):
            yield f"{line.strip()}:" if _RULE.fullmatch(following) and line[:2] != "  " else line.rstrip()
