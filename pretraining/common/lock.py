"""Lock of a folder, so that one process at a time writes into it.

The lock is a file in the folder, created with O_EXCL, which is atomic on local and network file
systems. It names the process that holds it. That process touches the file every 20 seconds, so that
others can tell whether it is still running.
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
"""Time without a heartbeat after which a lock of another machine counts as abandoned, seconds;
longer than the delays of network disks and caches.
"""
OLD_S = 3600.0
"""Age at which an untouched lock counts as abandoned at once, seconds; longer than the difference
between the clocks of two machines.
"""
_POLL_S = 1.0
_HALF_WRITTEN_S = 2.0


class InUse(CommandFailed):
    """Conflict with another process that writes into the folder."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Process that holds a lock."""

    host: str
    machine: str
    """Boot and process namespace, within which ``pid`` is unique."""
    pid: int
    started: str
    """Start time, to tell the process from a later one with its pid; empty if unknown."""
    since: str
    token: str
    """Unique identifier of this acquisition of the lock."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def has_ended(self) -> bool | None:
        """True if the process has ended, None if this machine cannot tell."""
        if (self.host, self.machine) != (socket.gethostname(), _machine_id()):
            return None
        return not psutil.pid_exists(self.pid) or bool(self.started and _start_time(self.pid) not in (self.started, ""))


@contextmanager
def hold_lock(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder.

    A missing folder is created, and removed again if it stays empty. A lock is taken over if its
    process has ended on this machine, or has no heartbeat on another machine.

    Args:
        folder: Folder to write into.
        wait: Whether to wait until another process releases the lock, instead of failing.

    Raises:
        InUse: If another process holds the lock; the message names it.
        InputError: If the folder or one of its parents is a file.

    Notes:
        A process can lose its lock while it still runs, for example if it was suspended for
        minutes. It stops as soon as it detects this.
    """
    folder = Path(folder)
    if (obstacle := blocking_file(folder)) is not None:
        raise InputError(
            f"expected a folder to write into at {folder}, but {obstacle} is a file; "
            "move it away, or name another folder"
        )
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    holder = _acquire(path, wait=wait)
    ended = threading.Event()
    heartbeat = threading.Thread(target=_send_heartbeats, args=(path, holder, ended), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        ended.set()
        heartbeat.join()
        with suppress(OSError):
            if _read(path) == holder:
                path.unlink()
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def is_vacant(folder: Path) -> bool:
    """Tell whether a folder is missing, or empty except for a lock.

    Args:
        folder: Path to examine; False if it is a file.
    """
    return not folder.exists() or (folder.is_dir() and all(entry.name.startswith(LOCK) for entry in folder.iterdir()))


def _acquire(path: Path, *, wait: bool) -> Holder:
    is_logged = False
    while True:
        holder = Holder(
            host=socket.gethostname(),
            machine=_machine_id(),
            pid=os.getpid(),
            started=_start_time(os.getpid()),
            since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            token=uuid4().hex,
        )
        with suppress(FileExistsError):
            _write(path, holder)
            return holder
        try:
            other = _read(path)
            has_ended = other.has_ended if other else None
            if has_ended is None and not is_logged:
                log.info(
                    "%s is locked by %s: waiting up to %.0f s for its heartbeat",
                    path.parent,
                    other or "another process",
                    SILENCE_S,
                )
                is_logged = True
            if has_ended or (has_ended is None and not _has_heartbeat(path)):
                if _take_over(path, other, holder):
                    log.warning(
                        "%s was locked by %s, which has ended: lock taken over", path.parent, other or "a process"
                    )
                    return holder
                continue
        except FileNotFoundError:  # released meanwhile
            continue
        if not wait:
            raise InUse(
                f"{path.parent} is in use by {other or 'another process'}: wait until it has finished, or stop it; "
                f"if it no longer exists, remove {path}"
            )
        if not is_logged:
            log.info("%s is in use by %s: waiting until it has finished", path.parent, other or "another process")
            is_logged = True
        time.sleep(_POLL_S)


def _write(path: Path, holder: Holder) -> None:
    """Create the lock.

    Raises:
        FileExistsError: If the lock exists.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(holder), indent=1) + "\n")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Holder | None:
    """Return the holder that the file names; None if the file is damaged.

    Raises:
        FileNotFoundError: If no process holds the lock.
    """
    deadline = time.monotonic() + _HALF_WRITTEN_S
    while True:
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)


def _has_heartbeat(path: Path) -> bool:
    """Watch a lock of another machine until it is touched, or the next heartbeat is overdue."""
    first = _modified(path)
    if time.time() - first > OLD_S:
        return False
    deadline = time.monotonic() + SILENCE_S
    while time.monotonic() < deadline:
        time.sleep(min(_POLL_S, SILENCE_S / 4))
        if _modified(path) != first:
            return True
    return False


def _modified(path: Path) -> float:
    with path.open("rb") as file:  # opening makes a network file system ask its server
        return os.fstat(file.fileno()).st_mtime


def _take_over(path: Path, ended: Holder | None, holder: Holder) -> bool:
    """Replace an abandoned lock; False if another process does, or did.

    A claim file, named after the abandoned lock, lets one process at a time replace it. The lock is
    replaced atomically: it is never missing, so that no other process can create one meanwhile.
    """
    claim = path.with_name(f"{path.name}-{ended.token if ended else 'damaged'}")
    try:
        _write(claim, holder)
    except FileExistsError:
        with suppress(FileNotFoundError):  # replaced meanwhile
            if time.time() - _modified(claim) > _HALF_WRITTEN_S:  # of a process that was killed while it replaced
                claim.unlink()
        time.sleep(0.01)
        return False
    taken = False
    try:
        if _read(path) == ended:
            claim.replace(path)
            taken = True
    finally:
        if not taken:
            claim.unlink(missing_ok=True)
    return taken


def _send_heartbeats(path: Path, holder: Holder, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        try:
            other = _read(path)
            if other == holder:
                os.utime(path)
                continue
        except FileNotFoundError:  # removed by a user or process that considered this one ended
            with suppress(OSError):
                _write(path, holder)
            continue
        except OSError:  # a temporarily unavailable disk
            continue
        log.error("the lock of %s was taken over by %s: stopping", path.parent, other or "another process")
        os.kill(os.getpid(), signal.SIGTERM)
        return


def _machine_id() -> str:
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):  # containers with equal host names have separate process numbers
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_time(pid: int) -> str:
    """Return the start time of a process; empty if unknown, ``dead`` for a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "dead"
        stat = Path(f"/proc/{pid}/stat")
        # Ticks since boot are independent of changes of the clock.
        return stat.read_text().rpartition(")")[2].split()[19] if stat.is_file() else str(round(process.create_time()))
    except (OSError, psutil.Error):
        return ""
