"""Sequential work on many items.

A failed item does not stop the others, and repeating the call resumes the work.
"""

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
"""Name of the file that lists the failed items and the reasons; absent when none failed."""
_MAX_NAMED = 3
"""Number of failures that the final message names."""


@dataclass(kw_only=True)
class Outcome:
    """Result of a batch, updated while it runs."""

    total: int
    done: int = 0
    """Number of items processed successfully in this call."""
    failed: dict[str, str] = field(default_factory=dict)
    """Item name → reason of the failure."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Item name → the other process that currently works on it."""

    def require_all(self, noun: str, *, see: Path | None = None) -> None:
        """Raise an error if items failed or are in use by other processes.

        Args:
            noun: Name of the items for messages, plural.
            see: File that lists all failures.

        Raises:
            CommandFailed: If any item failed or is in use by another process.
        """
        if self.failed:
            named = "; ".join(f"{name}: {reason}" for name, reason in list(self.failed.items())[:_MAX_NAMED])
            more = "" if len(self.failed) <= _MAX_NAMED else "; ..."
            where = f" (all in {see})" if see else ""
            raise CommandFailed(f"{len(self.failed)} of {self.total} {noun} failed{where}: {named}{more}")
        if self.elsewhere:
            name, reason = next(iter(self.elsewhere.items()))
            raise CommandFailed(
                f"{len(self.elsewhere)} of {self.total} {noun} are in use by other processes ({name}: {reason}); "
                "run the same command again when those have finished"
            )


def run_batch(
    items: Mapping[str, Item],
    work: Callable[[Item], object],
    *,
    noun: str,
    is_done: Callable[[Item], bool] = lambda item: False,
    failures: Path | None = None,
    on_failure: Callable[[Item, str], object] = lambda item, reason: None,
) -> Outcome:
    """Process every item that is not done.

    Args:
        items: Name → item.
        work: Function that processes one item. It can be interrupted at any point, so it must
            write its result atomically.
        noun: Name of an item for messages, singular.
        is_done: Function that tells whether an earlier call finished an item.
        failures: Folder whose ``failed.csv`` lists the failed items and the reasons. Lines of
            items of other calls are kept.
        on_failure: Function called with a failed item and the reason.

    Returns:
        The outcome. Failed items raise nothing here, see :meth:`Outcome.require_all`.

    Raises:
        Interrupted: If this process receives a stop signal. It stops at once; the current item
            stays unfinished.
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
                message = f"stopped at {noun} {number} of {len(items)}; run the same command again to resume"
                raise Interrupted(message, signal_of(interrupt)) from None
            except InUse as other:
                outcome.elsewhere[name] = str(other)
                log.warning("%s: %s", progress, other)
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                outcome.failed[name] = reason.removeprefix(f"{name}: ")  # the message names the item already
                log.error("%s failed: %s", progress, outcome.failed[name])
                if record:
                    record.add(name, outcome.failed[name])
                on_failure(item, outcome.failed[name])
    return outcome


def read_failures(folder: Path) -> dict[str, str]:
    """Read the failures of all calls from ``failed.csv``.

    Args:
        folder: Folder of the batch.

    Returns:
        Item name → reason; empty if none failed.
    """
    return _Failures(folder / FAILURES).read()


class _Failures:
    """Records in ``failed.csv``.

    All calls share the file, also concurrently; each changes only the lines of its own items.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, reason: str) -> None:
        if (known := self.read()).get(name) != reason:
            self._write(known | {name: reason})

    def forget(self, name: str) -> None:
        if name in (known := self.read()):
            del known[name]
            self._write(known)

    def read(self) -> dict[str, str]:
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
