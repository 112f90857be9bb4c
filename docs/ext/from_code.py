"""Sphinx extension that fills pages from the code at every build, so that they stay up to date.

Three comments are replaced, each alone on a line:

- ``<!-- help of PROGRAM -->``: the ``--help-all`` of every command of a program.
- ``<!-- modules of PACKAGE -->``: the reference of every module of a package, without sub-packages.
- ``<!-- public names of PACKAGE -->``: a table of the names that a package exports.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from sphinx.application import Sphinx

from pretraining.common.command_help import by_name

CLI_MODULES = {"anatomix-pretrain": "pretraining.cli", "nnunet-anatomix": "nnunet_anatomix.cli"}
_PLACEHOLDER = re.compile(r"^<!-- (help|modules|public names) of (\S+) -->$", re.MULTILINE)
_HIDDEN_MODULES = (".cli", ".__main__", "_kernel")
_BEFORE_NAPOLEON = 400
"""Priority of a listener; napoleon has Sphinx's default of 500."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the listeners (called by Sphinx)."""
    app.connect("source-read", _fill_page)
    app.connect("env-get-outdated", _list_generated_pages)
    app.connect("autodoc-process-docstring", _protect_colon, _BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}


def commands_of(program: str) -> list[str]:
    """List the names of a program's commands, in the order of its help."""
    return list(by_name(importlib.import_module(CLI_MODULES[program])._commands()))


def help_of(program: str, *command: str) -> str:
    """Return what ``PROGRAM [COMMAND] --help-all`` prints on a terminal of 90 columns."""
    main = importlib.import_module(CLI_MODULES[program]).main
    shown = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [program, *command, "--help-all"]),
        mock.patch.dict(os.environ, {"COLUMNS": "90"}),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        main()
    return shown.getvalue().strip()


def modules_of(package: str) -> list[str]:
    """List the dotted names of a package and its modules.

    Sub-packages, entry points and GPU kernels are not listed.
    """
    imported = importlib.import_module(package)
    names = [package, *(f"{package}.{one.name}" for one in pkgutil.iter_modules(imported.__path__) if not one.ispkg)]
    shown = [name for name in names if not name.endswith(_HIDDEN_MODULES)]
    return [name for name in shown if importlib.import_module(name).__doc__]


def public_names_of(package: str) -> dict[str, tuple[str, str]]:
    """Map each name that a package exports to its full name and its docstring's summary line."""
    imported = importlib.import_module(package)
    found = {}
    for name in imported.__all__:
        value = getattr(imported, name)
        summary = (inspect.getdoc(value) or "").splitlines()[0]
        found[name] = (f"{value.__module__}.{value.__qualname__}", summary)
    return found


def _fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    sections = {"help": _help_sections, "modules": _module_sections, "public names": _names_table}
    source[0] = _PLACEHOLDER.sub(lambda found: sections[found[1]](found[2]), source[0])


def _list_generated_pages(app: Sphinx, env: Any, *_: Any) -> list[str]:
    """List the pages to build again, although their files have not changed."""
    return [name for name in env.found_docs if _is_generated(Path(env.doc2path(name)))]


def _is_generated(path: Path) -> bool:
    return path.suffix == ".md" and _PLACEHOLDER.search(path.read_text(encoding="utf-8")) is not None


def _protect_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading the words before a colon as the type of an attribute.

    An empty comment becomes the first line. Napoleon looks for the type there only.
    """
    if what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]


def _help_sections(program: str) -> str:
    sections = [f"```text\n{help_of(program)}\n```\n"]
    sections += [
        f"## {program} {command}\n\n```text\n{help_of(program, command)}\n```\n" for command in commands_of(program)
    ]
    return "\n".join(sections)


def _module_sections(package: str) -> str:
    return "\n".join(map(_module_section, modules_of(package)))


def _module_section(module: str) -> str:
    # A package's exported names are documented in the modules that define them.
    members = "   :no-members:\n" if hasattr(importlib.import_module(module), "__path__") else ""
    return f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n{members}```\n"


def _names_table(package: str) -> str:
    rows = [
        f"   * - :py:obj:`{name} <{full}>`\n     - {summary}"
        for name, (full, summary) in public_names_of(package).items()
    ]
    table = ".. list-table::\n   :header-rows: 1\n   :widths: 25 75\n\n   * - name\n     - summary\n"
    return f"```{{eval-rst}}\n{table}" + "\n".join(rows) + "\n```\n"
