"""Notebook of the tutorial: the same text, with code cells that run.

``python docs/ext/notebook.py`` writes ``docs/tutorial/first_model.ipynb`` from ``first_model.md``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

TUTORIAL = Path(__file__).resolve().parents[1] / "tutorial" / "first_model.md"
NOTEBOOK = TUTORIAL.with_suffix(".ipynb")
_SITE = "https://github.com/nnunet-anatomix/nnunet-anatomix/blob/main/docs/"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def notebook_of(page: str) -> str:
    """Return a notebook, JSON of format 4.5.

    Args:
        page: Markdown with blocks of bash at the start of lines.
    """
    text = re.sub(r"<!--.*?-->\n*", "", page, flags=re.DOTALL)
    text = re.sub(r"\]\(\.\./([^)]+)\)", rf"]({_SITE}\1)", text)
    cells = []
    for number, (kind, content) in enumerate(_parts(text)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": content.splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _parts(text: str) -> Iterator[tuple[str, str]]:
    for number, part in enumerate(_BLOCK.split(text)):
        if number % 2 == 0:
            if part.strip():
                yield "markdown", part.strip()
        elif re.search(r"^(cd|export) ", part, re.MULTILINE):
            yield "code", _python(part)
        else:
            yield "code", f"%%bash\n{part.strip()}"


def _python(block: str) -> str:
    """Turn lines that change the state of the shell into Python: a cell of bash would lose it."""
    lines = ["import os", ""]
    for words in (shlex.split(line) for line in block.splitlines()):
        if words[0] == "mkdir":
            lines.append(f'os.makedirs("{words[-1]}", exist_ok=True)')
        elif words[0] == "cd":
            lines.append(f'os.chdir("{words[1]}")')
        elif words[0] == "export":
            for name, value in (word.split("=", 1) for word in words[1:]):
                path = value.replace("$PWD/", "")
                lines.append(
                    f'os.environ["{name}"] = ' + (f'os.path.abspath("{path}")' if path != value else f'"{value}"')
                )
        else:
            raise ValueError(f"expected mkdir, cd or export beside cd and export, found {words[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook_of(TUTORIAL.read_text(encoding="utf-8")), encoding="utf-8")
