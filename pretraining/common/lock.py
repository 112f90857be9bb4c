"""One process at a time writes into a folder.

The lock is a file in the folder, made with O_EXCL, which is atomic on local and on network file
systems. It names the process that holds it and is touched every 20 seconds, so that others can tell
whether that process still works.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import psutil

from pretraining.common.errors import CommandFailed, InputError
from pretraining.common.outputs import blocking_file

log = logging.getLogger(__name__)

LOCK = ".anatomix.lock"
HEARTBEAT_S = 20.0
SILENCE_S = 180.0
"""A lock from another machine that was not touched for so long is abandoned; slow disks and caches
on the network need less.
"""
OLD_S = 3600.0
"""A lock untouched for so long is abandoned whatever the clocks of two machines differ by."""
_POLL_S = 1.0
_HALF_WRITTEN_S = 2.0


class InUse(CommandFailed):
    """Another process writes into the folder."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock."""

    host: str
    machine: str
    """Boot and process namespace, within which ``pid`` means something."""
    pid: int
    started: str
    """Tells the process from a later one of the same number; empty if unknown."""
    since: str
    token: str
    """Of this taking of this lock."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_gone(self) -> bool | None:
        """Whether the process has ended; None if that can't be told from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        return not psutil.pid_exists(self.pid) or bool(self.started and _started(self.pid) not in (self.started, ""))


@contextmanager
def hold_lock(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made if it is missing and removed again if it is left empty.

    A lock whose process has ended on this machine, or gives no sign of life on another, is taken
    over.

    Args:
        folder: To write into.
        wait: Wait for another process to end, in place of failing.

    Raises:
        InUse: If another process holds the lock; the message names it.
        InputError: If a file is in the way of the folder.

    Notes:
        A process whose lock is taken over all the same (it was suspended for minutes) stops itself
        as soon as it finds out.
    """
    folder = Path(folder)
    if (obstacle := blocking_file(folder)) is not None:
        raise InputError(
            f"expected a folder to write into at {folder}, but {obstacle} is a file; move it away, or name another folder"
        )
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    holder = _take(path, wait=wait)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, holder, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(OSError):
            if _read(path) == holder:
                path.unlink()
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def is_vacant(folder: Path) -> bool:
    """Whether a folder is missing or holds nothing, except for a lock."""
    return not folder.exists() or (folder.is_dir() and all(entry.name.startswith(LOCK) for entry in folder.iterdir()))


def _take(path: Path, *, wait: bool) -> Holder:
    is_told = False
    while True:
        holder = Holder(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            token=uuid4().hex,
        )
        with suppress(FileExistsError):
            _write(path, holder)
            return holder
        try:
            other = _read(path)
            is_gone = other.is_gone if other else None
            if is_gone is None and not is_told:
                log.info(
                    "%s is held by %s: looking for a sign of life for up to %.0f s",
                    path.parent,
                    other or "somebody",
                    SILENCE_S,
                )
                is_told = True
            if is_gone or (is_gone is None and _is_silent(path)):
                log.warning("%s was left by %s, which has ended: taken over", path.parent, other or "another process")
                _clear(path, other)
                continue
        except FileNotFoundError:  # released meanwhile
            continue
        if not wait:
            raise InUse(
                f"{path.parent} is in use by {other or 'another process'}: wait until it has finished, or stop it; "
                f"if it is not there any more, remove {path}"
            )
        if not is_told:
            log.info("%s is in use by %s: waiting until it has finished", path.parent, other or "another process")
            is_told = True
        time.sleep(_POLL_S)


def _write(path: Path, holder: Holder) -> None:
    """Make the lock.

    Raises:
        FileExistsError: If there is one.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(holder), indent=1) + "\n")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Holder | None:
    """The holder that the file names; None if it is damaged.

    Raises:
        FileNotFoundError: If nobody holds the lock.
    """
    deadline = time.monotonic() + _HALF_WRITTEN_S
    while True:
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)


def _is_silent(path: Path) -> bool:
    """Watch a lock whose process can't be asked for, until it is touched or that is overdue."""
    seen = _touched(path)
    if time.time() - seen > OLD_S:
        return True
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        time.sleep(min(_POLL_S, SILENCE_S / 4))
        if _touched(path) != seen:
            return False
    return True


def _touched(path: Path) -> float:
    with path.open("rb") as file:  # a network file system asks its server when a file is opened
        return os.fstat(file.fileno()).st_mtime


def _clear(path: Path, holder: Holder | None) -> None:
    """Remove an abandoned lock, unless another process has just taken it over."""
    aside = path.with_name(f"{path.name}-{uuid4().hex[:8]}")
    path.rename(aside)
    if _read(aside) != holder:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink()


def _beat(path: Path, holder: Holder, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        try:
            other = _read(path)
            if other == holder:
                os.utime(path)
                continue
        except FileNotFoundError:  # removed by somebody who thought that this process was gone
            with suppress(OSError):
                _write(path, holder)
            continue
        except OSError:  # a disk that is away for a moment
            continue
        log.error("%s was taken over by %s: this process stops", path.parent, other or "another process")
        os.kill(os.getpid(), signal.SIGTERM)
        return


def _machine() -> str:
    named = []
    with suppress(OSError):
        named.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):  # two containers of one name number their processes apart
        named.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(named)


def _started(pid: int) -> str:
    """When a process started; empty if that can't be known, and ``dead`` for what waits to be cleared away."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "dead"
        stat = Path(f"/proc/{pid}/stat")
        # Ticks since boot: the time of day may have been set meanwhile.
        return stat.read_text().rpartition(")")[2].split()[19] if stat.is_file() else str(round(process.create_time()))
    except (OSError, psutil.Error):
        return ""
