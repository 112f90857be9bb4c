"""Structure of a table: commands, and cells that read their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TunedFlags:
    """Placeholder in a command for the best flags that an earlier search finds."""

    search: Path
    """Folder of ``nnunet-anatomix search``."""
    method: str
    """Method of the search, ``mind`` or ``features``."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, which resumes when it is run again."""

    name: str
    """Name of its record and log; tables share steps of the same name."""
    command: tuple[str | Path | TunedFlags, ...]
    after: tuple[str, ...] = ()
    """Names of the steps whose results it needs."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    row: str
    column: str
    paper: str = ""
    """Number as printed in the paper; empty if there is none."""
    steps: tuple[str, ...] = ()
    """Names of the steps that compute it."""
    read: Callable[[], str] | None = None
    """Function that reads our number; None if it cannot be reproduced here."""
    why_not: str = ""
    """Reason why there is no number of ours."""


@dataclass(kw_only=True)
class Table:
    """A table or figure of the paper."""

    name: str
    title: str
    steps: list[Step] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Differences from the paper."""

    def only(self, rows: Sequence[str]) -> Table:
        """Select rows, with the steps that they need.

        Args:
            rows: Names of rows. Empty: all.

        Returns:
            The table with these rows.

        Raises:
            InputError: If the table has no such row.
        """
        known = list(dict.fromkeys(cell.row for cell in self.cells))
        if unknown := [row for row in rows if row not in known]:
            raise InputError(f"--rows: {self.name} has no row '{unknown[0]}', expected one of {known}")
        if not rows:
            return self
        cells = [cell for cell in self.cells if cell.row in rows]
        needed = self.needed(cell for cell in cells if cell.read is not None)
        return replace(self, cells=cells, steps=[step for step in self.steps if step.name in needed])

    def needed(self, cells: Iterable[Cell]) -> set[str]:
        """Return the names of all steps that cells need, directly or through other steps."""
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
        """Add a step unless the table has it, and return its name."""
        if step.name not in {other.name for other in self.steps}:
            self.steps.append(step)
        return step.name
