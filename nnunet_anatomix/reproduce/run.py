"""Execution of a table's commands in order, without those that are finished.

OUT/steps/NAME.json     command of a finished step
OUT/logs/NAME.txt       its output
OUT/failed.csv          failed steps with reasons, which do not stop the rest
OUT/TABLE.md, .csv      the paper's numbers next to ours, updated after every step
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunet_anatomix.reproduce.plan import Step, Table, TunedFlags
from nnunet_anatomix.reproduce.report import write_report
from nnunet_anatomix.reproduce.results import tuned_flags
from nnunet_anatomix.reproduce.settings import Settings
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.child import GRACE_S, run_child
from pretraining.common.errors import CommandFailed
from pretraining.common.lock import hold_lock

log = logging.getLogger(__name__)


def format_commands(table: Table, settings: Settings) -> str:
    """Format all commands of a table and the variables they need, one per line."""
    lines = [f"# {table.title}", *(f"export {name}={shlex.quote(value)}" for name, value in _folders(settings).items())]
    for step in table.steps:
        if any(isinstance(word, TunedFlags) for word in step.command):
            lines.append("# with the best settings of the search above:")
        lines.append(shlex.join(_words(step, dry=True)))
    return "\n".join(lines) + "\n"


def run(table: Table, settings: Settings) -> str:
    """Run all steps that are possible and not finished.

    Args:
        table: Table to run.
        settings: Settings of the reproduction.

    Returns:
        The table, as Markdown.

    Raises:
        CommandFailed: If steps failed, after all others were run; the same call tries them again.
        Interrupted: If this process is asked to stop, after the current command was stopped; the
            same call resumes.
        InUse: If another process runs tables in the same folder.
    """
    with hold_lock(settings.out):
        for folder in _folders(settings).values():
            Path(folder).mkdir(parents=True, exist_ok=True)
        steps = {step.name: step for step in needed_steps(table)}
        finished: set[str] = set()

        def is_done(step: Step) -> bool:
            if not all(name in finished for name in step.after) or not _is_recorded(step, settings):
                return False
            finished.add(step.name)
            return True

        def work(step: Step) -> None:
            if missing := [name for name in step.after if name not in finished]:
                raise CommandFailed(f"needs {missing[0]}")
            words = _words(step)
            log.info("%s", shlex.join(words))
            run_child(
                words,
                {**os.environ, **_folders(settings)},
                settings.out / "logs" / f"{step.name}.txt",
                grace_s=2 * GRACE_S,
            )
            write_text(_record(step, settings), _format_record(words))
            finished.add(step.name)
            write_report(table, settings.out, finished)

        outcome = run_batch(steps, work, noun="step", is_done=is_done, failures=settings.out)
        text = write_report(table, settings.out, finished)
        outcome.require_all("steps", see=settings.out / FAILURES)
    return text


def needed_steps(table: Table) -> list[Step]:
    """Return the steps that cells with an obtainable number need, in order."""
    needed = table.needed(cell for cell in table.cells if cell.read is not None and not cell.why_not)
    return [step for step in table.steps if step.name in needed]


def _is_recorded(step: Step, settings: Settings) -> bool:
    """Return whether an earlier call finished the same command."""
    record = _record(step, settings)
    return record.is_file() and record.read_text(encoding="utf-8") == _format_record(_words(step))


def _record(step: Step, settings: Settings) -> Path:
    return settings.out / "steps" / f"{step.name}.json"


def _format_record(words: Sequence[str]) -> str:
    return json.dumps(words, indent=1) + "\n"


def _words(step: Step, *, dry: bool = False) -> list[str]:
    return [
        word
        for part in step.command
        for word in (tuned_flags(part, dry=dry) if isinstance(part, TunedFlags) else [str(part)])
    ]


def _folders(settings: Settings) -> dict[str, str]:
    """Return the environment variables that nnU-Net's commands need."""
    folders = {"nnUNet_raw": settings.data} | {
        name: settings.out / name for name in ("nnUNet_preprocessed", "nnUNet_results")
    }
    return {name: str(folder.resolve()) for name, folder in folders.items()}
