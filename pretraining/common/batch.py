"""Work on many items one after the other: one that fails does not stop the others, and the same call again resumes."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pretraining.common.errors import CommandFailed, Interrupted
from pretraining.common.interruption import signal_of, stop_signals_interrupt
from pretraining.common.lock import InUse
from pretraining.common.tables import write_csv

log = logging.getLogger(__name__)

Item = TypeVar("Item")

FAILURES = "failed.csv"
"""Name of the file that says which items failed, and why; there is none when none failed."""
_TOLD = 3
"""Failures that are named in the last message."""


@dataclass(kw_only=True)
class Outcome:
    """Result of a batch, while it runs and after it."""

    total: int
    done: int = 0
    """Items that were worked on with success in this call."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of an item → why it failed."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Name of an item → which other process works on it just now."""

    def require_all(self, noun: str, *, see: Path | None = None) -> None:
        """Raise CommandFailed if some items failed or are in the hands of other processes.

        Args:
            noun: What the items are, in the plural.
            see: File that tells all failures.
        """
        if self.failed:
            told = "; ".join(f"{name}: {why}" for name, why in list(self.failed.items())[:_TOLD])
            more = "" if len(self.failed) <= _TOLD else "; ..."
            where = f" (all in {see})" if see else ""
            raise CommandFailed(f"{len(self.failed)} of {self.total} {noun} failed{where}: {told}{more}")
        if self.elsewhere:
            name, why = next(iter(self.elsewhere.items()))
            raise CommandFailed(
                f"{len(self.elsewhere)} of {self.total} {noun} are left to other processes ({name}: {why}); "
                "run the same command again when those have finished"
            )


def run_batch(
    items: Mapping[str, Item],
    work: Callable[[Item], object],
    *,
    noun: str,
    is_done: Callable[[Item], bool] = lambda item: False,
    failures: Path | None = None,
    on_failure: Callable[[Item, str], object] = lambda item, why: None,
) -> Outcome:
    """Work on every item that is not done.

    Args:
        items: Name → item.
        work: Works on one item. It writes its result whole or not at all, since it can be
            interrupted anywhere.
        noun: What the items are, in the singular; for messages.
        is_done: Whether an item was finished by an earlier call.
        failures: Folder whose ``failed.csv`` lists the items that failed, and why. Items of other
            calls keep their lines.
        on_failure: Called with an item that failed, and why.

    Returns:
        The outcome; nothing is raised for items that failed, see :meth:`Outcome.require_all`.

    Raises:
        Interrupted: When this process is asked to stop; the item in hand is left unfinished, at
            once.
    """
    outcome = Outcome(total=len(items))
    record = _Failures(failures / FAILURES) if failures else None
    with stop_signals_interrupt():
        for number, (name, item) in enumerate(items.items(), 1):
            progress = f"[{number}/{len(items)}] {name}"
            try:
                if is_done(item):
                    log.info("%s: already done", progress)
                else:
                    log.info("%s", progress)
                    work(item)
                    outcome.done += 1
                if record:
                    record.forget(name)
            except Interrupted:
                raise
            except KeyboardInterrupt as interrupt:
                said = f"stopped at {noun} {number} of {len(items)}; run the same command again to go on"
                raise Interrupted(said, signal_of(interrupt)) from None
            except InUse as other:
                outcome.elsewhere[name] = str(other)
                log.warning("%s: %s", progress, other)
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                why = " ".join(str(error).split()) or type(error).__name__
                outcome.failed[name] = why.removeprefix(f"{name}: ")  # which is said already
                log.error("%s failed: %s", progress, outcome.failed[name])
                if record:
                    record.add(name, outcome.failed[name])
                on_failure(item, outcome.failed[name])
    return outcome


class _Failures:
    """``failed.csv``: shared by all calls, and by several at once; each changes the lines of its own items alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, why: str) -> None:
        if (known := self._read()).get(name) != why:
            self._write(known | {name: why})

    def forget(self, name: str) -> None:
        if name in (known := self._read()):
            del known[name]
            self._write(known)

    def _read(self) -> dict[str, str]:
        try:
            with self._path.open(newline="", encoding="utf-8") as file:
                return {row["name"]: row["reason"] for row in csv.DictReader(file)}
        except (OSError, KeyError, UnicodeDecodeError, csv.Error):
            return {}

    def _write(self, known: Mapping[str, str]) -> None:
        if known:
            write_csv(self._path, ["name", "reason"], known.items())
        else:
            self._path.unlink(missing_ok=True)
