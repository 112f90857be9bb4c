"""Requests to stop: noted by work that saves its state first, raised as KeyboardInterrupt in all other work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Slurm sends SIGTERM, or what ``--signal`` names, ahead of a job's end; Ctrl-C is SIGINT; a
terminal that closes sends SIGHUP.
"""


class Stop:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Note the first request to stop instead of ending at once; a second one ends at once.

    Outside the main thread, where Python takes no signals, nothing is ever noted.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # What nohup ignores stays ignored.
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    owner = os.getpid()

    def note(number: int, frame: object) -> None:
        if os.getpid() != owner:
            _end_forked_worker(number)
            return
        stop.signal = signal.Signals(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Let every request to stop end the work as Ctrl-C does, by a KeyboardInterrupt, whose argument is the signal's number.

    Files are then cleaned up, locks released and child processes ended on the way out. Signals that
    somebody else has a use for (submitit, nohup) keep it; outside the main thread, where Python
    takes no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]

    owner = os.getpid()

    def interrupt(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt(number)
        _end_forked_worker(number)

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Number of the signal that ``interrupt`` is about."""
    return interrupt.args[0] if interrupt.args else signal.SIGINT


def _end_forked_worker(number: int) -> None:
    """Do what the signal does by default: a forked worker inherits handlers, and its parent ends it by signals."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_mask_before_fork = threading.local()


def _hold_signals() -> None:
    """Block stop signals while this process forks.

    CPython drops signals that reach a child before it has left ``fork``. A worker that nnU-Net's
    pool ends that early would live on, and the pool would wait for it forever.
    """
    _mask_before_fork.value = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release_signals() -> None:
    """Unblock what ``_hold_signals`` has blocked, in the parent and in the child."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask_before_fork.value)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_release_signals)
