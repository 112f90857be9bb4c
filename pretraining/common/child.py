"""Commands run as child processes whose output is logged and that end with their parent."""

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
"""Time that a child has to stop after SIGTERM, seconds."""
PROGRESS = "ANATOMIX_PROGRESS"
"""Environment variable: 1 makes a child show progress bars although its output is no terminal, 0
hides them everywhere.
"""
_LAST_LINES = 10
"""Number of log lines shown when a command fails."""
_DRAIN_S = 10.0
"""Longest wait for the output of a child that has ended, seconds; a grandchild may keep it open."""

# Leader of the command's session. It ends the session when the process that started the command
# is killed; otherwise nnU-Net's workers would continue. Only Linux signals the death of a parent.
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
    """Run a command and wait until it ends.

    Its output is appended to the log, except for lines that it overwrites (progress bars). A
    terminal shows the latest line.

    Args:
        command: Program and arguments; console scripts of this Python environment take precedence.
        environment: Complete environment of the process.
        log_file: Log to append to; created with its folder if missing.
        grace_s: Time from SIGTERM to killing the child, seconds.

    Raises:
        CommandFailed: If the program does not exist, or its exit code is not 0. The last lines of
            its output are logged.
        KeyboardInterrupt: If this process is interrupted. The child and all processes that it
            started have ended by then.

    Notes:
        The child gets its own session, so that Ctrl-C reaches only this process. Whichever signal
        stops this process, the child gets SIGTERM: at SIGINT, each worker process of nnU-Net
        would print a traceback.
    """
    folder = str(Path(sys.executable).parent)
    program = shutil.which(command[0], path=folder) or shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        raise CommandFailed(f"found no program '{command[0]}' in {folder} or in PATH; install it")
    arguments = [program, *command[1:]]
    if sys.platform == "linux":
        arguments = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *arguments]
    is_watched = {"": sys.stderr.isatty(), "0": False}.get(os.environ.get(PROGRESS, ""), True)
    variables = {**environment, "PYTHONUNBUFFERED": "1", **({PROGRESS: "1"} if is_watched else {})}
    log_file.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with log_file.open("a", encoding="utf-8", newline="") as sink:
        sink.write(f"\n$ {shlex.join(command)}\n")
        sink.flush()
        process = subprocess.Popen(
            arguments,
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
            _stop(process, grace_s)
            raise
        if code:
            _terminate(process)  # workers that a crash left behind
        reading.join(_DRAIN_S)
    if code:
        if last:
            log.error("last lines of %s:\n%s", log_file, "\n".join(last))
        reason = ""
        if code in _KILLED:
            reason = ": it was killed, possibly for lack of memory"
        elif last:
            reason = f": {last[-1].strip()[-300:]}"
        raise CommandFailed(f"'{command[0]}' ended with exit code {code}{reason} (its whole output is in {log_file})")


def hides_progress_bars() -> bool | None:
    """Return the value for tqdm's ``disable``.

    Returns:
        False if a parent process shows the bars in its terminal, True if the user wants none; else
        None, with which tqdm shows bars only in a terminal.
    """
    return {"": None, "0": True}.get(os.environ.get(PROGRESS, ""), False)


class _StatusLine:
    """Terminal line that is overwritten repeatedly."""

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


def _stop(process: subprocess.Popen, grace_s: float) -> None:
    """Terminate a child with all its descendants, and kill those that do not end in time."""
    descendants: list[psutil.Process] = []
    with suppress(psutil.Error):
        # Includes those in sessions of their own, which SIGTERM to the process group misses.
        descendants = psutil.Process(process.pid).children(recursive=True)
    try:
        _terminate(process)
        process.wait(grace_s)
        _, descendants = psutil.wait_procs(descendants, timeout=grace_s)
    except subprocess.TimeoutExpired:
        log.warning("process %d did not stop within %.0f s and is killed", process.pid, grace_s)
    finally:
        for descendant in descendants:
            with suppress(psutil.Error):
                descendant.kill()
        process.kill()
        process.wait()


def _terminate(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
