"""What a table is made of: commands, and cells that read what those wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Stands in a command for flags that an earlier search over settings of ConvexAdam finds best."""

    search: Path
    """Folder of ``nnunet-anatomix search``."""
    method: str
    """``mind`` or ``features``."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command; it goes on by itself where it was killed."""

    name: str
    """Of its record and log; the same step of another table is the same command, and is not run
    twice.
    """
    command: tuple[str | Path | Tuned, ...]
    after: tuple[str, ...] = ()
    """Names of the steps whose results it takes."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    row: str
    column: str
    paper: str = ""
    """As printed there; empty where the paper has no such number."""
    steps: tuple[str, ...] = ()
    """What must have been done before it can be read."""
    read: Callable[[], str] | None = None
    """Our number; None where it can't be had here."""
    why_not: str = ""
    """What is missing, or why it can't be reproduced."""


@dataclass(kw_only=True)
class Table:
    """A table or figure of the paper."""

    name: str
    title: str
    steps: list[Step] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Where we depart from the paper."""

    def only(self, rows: Sequence[str]) -> Table:
        """The table with the named rows, and the steps that they need; all of it where none is named.

        Raises:
            InputError: For a row that it doesn't have.
        """
        known = list(dict.fromkeys(cell.row for cell in self.cells))
        if unknown := [row for row in rows if row not in known]:
            raise InputError(f"{self.name} has no row '{unknown[0]}'; there are {known}")
        if not rows:
            return self
        cells = [cell for cell in self.cells if cell.row in rows]
        needed = self.needed(cell for cell in cells if cell.read is not None)
        return replace(self, cells=cells, steps=[step for step in self.steps if step.name in needed])

    def needed(self, cells: Iterable[Cell]) -> set[str]:
        """Names of all steps that these cells need, directly or through others."""
        by_name = {step.name: step for step in self.steps}
        needed: set[str] = set()
        waiting = [name for cell in cells for name in cell.steps]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += by_name[name].after
        return needed

    def add(self, step: Step) -> str:
        """Add a step, unless it is there already; its name."""
        if step.name not in {other.name for other in self.steps}:
            self.steps.append(step)
        return step.name
