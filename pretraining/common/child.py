"""Commands run as child processes: their output goes to a log, and they end when they should."""

from __future__ import annotations

import io
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from pretraining.common.errors import CommandFailed

log = logging.getLogger(__name__)

GRACE_S = 30.0
"""A child that was asked to stop may take so long."""
PROGRESS = "ANATOMIX_PROGRESS"
"""Variable that tells a child that somebody watches: it shows progress bars although it prints to
no terminal.
"""
_TOLD_LINES = 10
"""The last lines of the log that are shown when a command fails."""
_DRAIN_S = 10.0
"""Somebody may hold the output of a child open that has ended."""

# Leads the session of a command, and ends it when the process that started the command is killed:
# nnU-Net's workers would live on. Linux alone tells a process of its parent's death.
_GUARD = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
def end_orphans(*_):
    if os.getppid() != parent:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
signal.signal(signal.SIGTERM, end_orphans)
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
command = os.fork()
if command == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
end_orphans()
code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
if os.getppid() != parent:
    os.killpg(0, signal.SIGKILL)
sys.exit(code if code >= 0 else 128 - code)
"""
_KILLED = (-9, 137)


def run_child(
    command: Sequence[str], environment: Mapping[str, str], log_file: Path, *, grace_s: float = GRACE_S
) -> None:
    """Run a command to its end.

    Everything it prints is appended to the log, except for lines that it overwrites itself
    (progress bars). In a terminal its latest line is shown.

    Args:
        command: Program and arguments; console scripts of this Python environment are found first.
        environment: All variables of the process.
        log_file: Appended to; made with its folder if missing.
        grace_s: Seconds from asking the child to stop to killing it.

    Raises:
        CommandFailed: If there is no such program, or it ends with any other exit code than 0. The
            last lines of its output are logged.
        KeyboardInterrupt: If this process is interrupted. The child and all that it started have
            ended then.

    Notes:
        The child gets a session of its own, so that Ctrl-C reaches this process alone. Whatever
        stops this process, the child gets SIGTERM: at SIGINT, each of nnU-Net's worker processes
        would print a traceback.
    """
    folder = str(Path(sys.executable).parent)
    program = shutil.which(command[0], path=folder) or shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        raise CommandFailed(f"there is no program '{command[0]}', neither in {folder} nor in PATH; install it")
    words = [program, *command[1:]]
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *words]
    is_watched = sys.stderr.isatty() or bool(os.environ.get(PROGRESS))
    variables = {**environment, "PYTHONUNBUFFERED": "1", **({PROGRESS: "1"} if is_watched else {})}
    log_file.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=_TOLD_LINES)
    with log_file.open("a", encoding="utf-8", newline="") as sink:
        sink.write(f"\n$ {shlex.join(command)}\n")
        sink.flush()
        process = subprocess.Popen(
            words,
            env=variables,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            reading = threading.Thread(
                target=_copy, args=(process.stdout, sink, last, _StatusLine(is_watched)), daemon=True
            )
            reading.start()
            code = process.wait()
        except BaseException:
            _end(process, grace_s)
            raise
        if code:
            _ask_to_stop(process)  # workers that a crash left behind
        reading.join(_DRAIN_S)
    if code:
        if last:
            log.error("the last lines of %s:\n%s", log_file, "\n".join(last))
        said = (
            "it was killed, by somebody or for lack of memory"
            if code in _KILLED
            else last[-1].strip()[-300:]
            if last
            else ""
        )
        reason = said and f": {said}"
        raise CommandFailed(f"'{command[0]}' ended with exit code {code}{reason} (all of its output is in {log_file})")


def hides_progress_bars() -> bool | None:
    """What tqdm's ``disable`` should be: None, which shows bars in a terminal, unless a parent shows them there."""
    return False if os.environ.get(PROGRESS) else None


class _StatusLine:
    """One line of the terminal, overwritten again and again."""

    def __init__(self, is_shown: bool) -> None:
        self._is_shown, self._length = is_shown, 0

    def show(self, text: str) -> None:
        if self._is_shown:
            text = text.strip()[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write(f"\r{text.ljust(self._length)}")
            sys.stderr.flush()
            self._length = len(text)

    def clear(self) -> None:
        if self._is_shown and self._length:
            sys.stderr.write(f"\r{' ' * self._length}\r")
            sys.stderr.flush()


def _copy(pipe: IO[bytes], sink: IO[str], last: deque[str], status: _StatusLine) -> None:
    with io.TextIOWrapper(pipe, encoding="utf-8", errors="replace", newline="") as lines:
        for line in lines:
            if not line.endswith("\r"):
                sink.write(line)
                sink.flush()
                if line.strip():
                    last.append(line.rstrip())
            if line.strip():
                status.show(line)
    status.clear()


def _end(process: subprocess.Popen, grace_s: float) -> None:
    """Ask a child to stop, with all that it started, and kill what is still there in the end."""
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        # Those in sessions of their own, too, which the children of a child of ours have.
        started = psutil.Process(process.pid).children(recursive=True)
    try:
        _ask_to_stop(process)
        process.wait(grace_s)
        _, started = psutil.wait_procs(started, timeout=grace_s)
    except subprocess.TimeoutExpired:
        log.warning("process %d did not stop within %.0f s and is killed", process.pid, grace_s)
    finally:
        for one in started:
            with suppress(psutil.Error):
                one.kill()
        process.kill()
        process.wait()


def _ask_to_stop(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
