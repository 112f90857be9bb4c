"""Runs a table's commands one after the other; what is finished is not run again, what fails doesn't stop the rest.

OUT/steps/NAME.json     the command of a finished step
OUT/logs/NAME.txt       what it printed
OUT/TABLE.md, .csv      the paper's numbers beside ours, after every step
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nnunet_anatomix.reproduce.plan import Step, Table, Tuned
from nnunet_anatomix.reproduce.report import write_report
from nnunet_anatomix.reproduce.results import tuned_flags
from nnunet_anatomix.reproduce.settings import Settings
from pretraining.atomic import write_text
from pretraining.errors import CommandFailed, InputError, Interrupted
from pretraining.interruption import Stop, stop_requests

log = logging.getLogger(__name__)

_POLL_S = 1.0
_CHUNK = 4096
"""Bytes."""


def dry_run(table: Table, settings: Settings) -> str:
    """All commands of a table, with the variables that they need, one a line; nothing is run or written."""
    lines = [f"# {table.title}", *(f"export {name}={shlex.quote(value)}" for name, value in _folders(settings).items())]
    for step in table.steps:
        if any(isinstance(word, Tuned) for word in step.command):
            lines.append("# with the settings that the search before finds best:")
        lines.append(shlex.join(_words(step, dry=True)))
    return "\n".join(lines) + "\n"


def run(table: Table, settings: Settings) -> str:
    """Run what can be run and is not finished.

    Returns
    -------
    The table, as Markdown.

    Raises
    ------
    CommandFailed
        After all others, if steps failed; the same call tries them again.
    Interrupted
        If asked to stop, after the command in hand has stopped; the same call goes on.
    """
    for folder in _folders(settings).values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    steps = wanted_steps(table)
    finished: set[str] = set()
    failed: dict[str, str] = {}
    with stop_requests() as stop:
        for number, step in enumerate(steps, 1):
            progress = f"[{number}/{len(steps)}] {step.name}"
            if lacking := [name for name in step.after if name not in finished]:
                failed[step.name] = f"needs {lacking[0]}"
                log.warning("%s: left out, it needs %s", progress, lacking[0])
                continue
            try:
                _finish(step, settings, progress, stop)
                finished.add(step.name)
            except (CommandFailed, InputError, OSError) as error:
                if stop:
                    raise Interrupted(f"stopped in step {number} of {len(steps)}; the same command goes on", stop.signal) from None
                failed[step.name] = " ".join(str(error).split())
                log.error("%s failed: %s", progress, failed[step.name])
            text = write_report(table, settings.out, finished)
            if stop and number < len(steps):
                raise Interrupted(f"stopped after step {number} of {len(steps)}; the same command goes on", stop.signal)
    if not steps:
        text = write_report(table, settings.out, finished)
    if failed:
        listed = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise CommandFailed(f"{len(failed)} of {len(steps)} steps failed: {listed}; the rest is in {settings.out / table.name}.md")
    return text


def wanted_steps(table: Table) -> list[Step]:
    """The steps that some cell which can be had needs, in their order."""
    wanted = table.needed(cell for cell in table.cells if cell.read is not None and not cell.why_not)
    return [step for step in table.steps if step.name in wanted]


def _finish(step: Step, settings: Settings, progress: str, stop: Stop) -> None:
    record = settings.out / "steps" / f"{step.name}.json"
    words = _words(step)
    said = json.dumps(words, indent=1) + "\n"
    if record.is_file() and record.read_text(encoding="utf-8") == said:
        log.info("%s: already done", progress)
        return
    log.info("%s: %s", progress, shlex.join(words))
    _run(words, {**os.environ, **_folders(settings)}, settings.out / "logs" / f"{step.name}.txt", stop)
    write_text(record, said)


def _words(step: Step, *, dry: bool = False) -> list[str]:
    return [word for part in step.command for word in (tuned_flags(part, dry=dry) if isinstance(part, Tuned) else [str(part)])]


def _folders(settings: Settings) -> dict[str, str]:
    """The variables that nnU-Net's commands want."""
    folders = {"nnUNet_raw": settings.data} | {name: settings.out / name for name in ("nnUNet_preprocessed", "nnUNet_results")}
    return {name: str(folder.resolve()) for name, folder in folders.items()}


def _run(words: Sequence[str], environment: dict[str, str], log_file: Path, stop: Stop) -> None:
    """Run a console script of this environment; asked to stop, it is asked to stop as well, with all that it started.

    Raises
    ------
    CommandFailed
        If it ends with any other exit code than 0.
    """
    program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or words[0]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    # A group of its own, where the system has them: a signal then reaches what the command has started itself.
    grouped = hasattr(os, "killpg")
    with log_file.open("ab", buffering=0) as sink:
        sink.write(f"\n$ {shlex.join(words)}\n".encode())
        pipes = {"stdout": sink, "stderr": subprocess.PIPE}
        with subprocess.Popen([program, *words[1:]], env=environment, start_new_session=grouped, **pipes) as process:
            telling = threading.Thread(target=_tell, args=(process.stderr, sink), daemon=True)
            telling.start()
            asked = False
            while True:
                try:
                    code = process.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if stop and not asked:
                        asked = True
                        if grouped:
                            os.killpg(process.pid, signal.SIGTERM)
                        else:
                            process.terminate()
                except BaseException:
                    process.kill()
                    raise
            telling.join()
    if code:
        raise CommandFailed(f"'{' '.join(words[:2])}' ended with exit code {code}: {_last_line(log_file)} (all of it in {log_file})")


def _tell(pipe: IO[bytes], sink: IO[bytes]) -> None:
    """Progress and messages go to the terminal as they come, and into the log."""
    for chunk in iter(lambda: pipe.read1(_CHUNK), b""):
        sink.write(chunk)
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()


def _last_line(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else ""
