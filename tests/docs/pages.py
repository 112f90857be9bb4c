"""Code blocks of documentation pages, and the comments that say how to test them.

A comment is alone on its line. Readers do not see it.

Above a block:

- ``<!-- not run: REASON -->``: the block is not run.
- ``<!-- file: NAME -->``: the block is the content of a file.

At the top of a page:

- ``<!-- tested: slow, REASON -->``: the page belongs to the slow suite.
- ``<!-- given: NAME from PATH -->``: real data that the reader has as NAME; PATH is relative to the
  folder of test data.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [
    REPOSITORY / "README.md",
    DOCS / "index.md",
    *sorted((DOCS / "tutorial").glob("*.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
]
RUNNABLE = ("bash", "python")
SHOWN = ("text", "json", "sh", "yaml")
"""Languages of blocks that are only shown: output, files, diagrams."""

_COMMENT = re.compile(r"<!-- ([\w ]+): (.*) -->")
_FENCE = re.compile(r"( *)```(.*)")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``line`` is the number of its first line of text."""

    language: str
    text: str
    line: int
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.language in RUNNABLE and not self.marks


@dataclass(frozen=True)
class Page:
    """One page: its blocks, whether it is slow, and its given data (name to path)."""

    path: Path
    blocks: tuple[Block, ...]
    slow: bool
    given: dict[str, str]

    def __str__(self) -> str:
        return self.path.relative_to(REPOSITORY).as_posix().removeprefix("docs/")


def read_page(path: Path) -> Page:
    """Read the code blocks of a page, in order; directives of MyST (```{name}) are skipped."""
    blocks, given, slow, marks = [], {}, False, {}
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if comment := _COMMENT.fullmatch(line.strip()):
            if comment[1] == "given":
                name, source = comment[2].split(" from ")
                given[name] = source
            elif comment[1] == "tested":
                slow = comment[2].startswith("slow, ")
            else:
                marks = {comment[1]: comment[2]}
        elif fence := _FENCE.fullmatch(line):
            inside = []
            for _, content in lines:
                if content.strip() == "```":
                    break
                inside.append(content.removeprefix(fence[1]))
            if not fence[2].startswith("{"):
                blocks.append(Block(fence[2], "\n".join(inside) + "\n", number + 1, marks))
            marks = {}
    return Page(path, tuple(blocks), slow, given)


def commands(block: Block) -> list[list[str]]:
    """Split the commands of a bash block into words.

    Variables that are set for one command only (``NAME=VALUE command``) are removed.
    """
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            del words[0]
        if words:
            found.append(words)
    return found


def script(page: Page) -> str:
    """Join the blocks of a page to one bash script.

    The script stops at the first failure. Trainings are shortened to two iterations.
    """
    parts = ["set -euo pipefail"]
    for block in page.blocks:
        parts.append(f"echo '### {page}, line {block.line}'")
        if "file" in block.marks:
            parts.append(f"cat > {shlex.quote(block.marks['file'])} <<'END_OF_FILE'\n{block.text}END_OF_FILE")
        elif block.runs and block.language == "bash":
            parts.append(re.sub(r"--iterations \d+", "--iterations 2", block.text))
        elif block.runs:
            parts.append(f"python - <<'END_OF_FILE'\n{block.text}END_OF_FILE")
    return "\n".join(parts) + "\n"
