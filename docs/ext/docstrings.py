"""Our docstrings for Sphinx: `name : text` without lines below means the parameter's description, not its type.

Types stand in the signatures. Attributes of dataclasses are what their constructors take, and are
shown as such. What Sphinx would take for markup of its own (`|A|`, `*`) is escaped.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_NAMED = {"Parameters", "Attributes"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    # Before napoleon, which listens with the default priority of 500.
    app.connect("autodoc-process-docstring", _process, 400)
    return {"parallel_read_safe": True}


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)  # napoleon would read a type before the colon
    lines[:] = readable(lines)


def readable(lines: list[str]) -> list[str]:
    """The docstring as napoleon understands it."""
    result: list[str] = []
    section = ""
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if re.fullmatch(r"-{3,}", following):
            section = line.strip()
        text = "Parameters" if section == "Attributes" and line.strip() == section else _escaped(line)
        if section == "Attributes" and re.fullmatch(r"-{3,}", line):
            text = "-" * len("Parameters")
        if section in _NAMED and (named := re.fullmatch(r"(\*{0,2}\w[\w, *]*?) : (.*)", line)):
            result += [named[1], f"    {_escaped(named[2])}"]
        else:
            result.append(text)
    return result


def _escaped(text: str) -> str:
    """Bars and stars outside double backquotes, and single backquotes, as characters."""
    parts = re.split(r"(``.*?``|:\w+:`.*?`)", text)
    return "".join(part if place % 2 else re.sub(r"[|*](?=\S)|`", r"\\\g<0>", part) for place, part in enumerate(parts))
