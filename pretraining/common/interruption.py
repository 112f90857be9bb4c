"""Handling of stop signals.

Work that saves its state first records the request; all other work gets a KeyboardInterrupt.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Stop signals. Slurm sends SIGTERM, or the signal of ``--signal``, before a job ends; Ctrl-C sends
SIGINT; a closing terminal sends SIGHUP.
"""


class Stop:
    """Record of a stop request; true once this process has received one."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Record the first stop request instead of ending at once; a second request ends at once.

    Outside the main thread, where Python receives no signals, nothing is recorded.

    Yields:
        The record, which the work checks between its steps.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Signals that nohup ignores stay ignored.
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def record(number: int, frame: object) -> None:
        stop.signal = signal.Signals(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, record)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Raise a KeyboardInterrupt at every stop signal, as at Ctrl-C.

    Its argument is the number of the signal. The exception lets files be cleaned up, locks be
    released and child processes be ended. Signals that already have a handler (of submitit or
    nohup) keep it. Outside the main thread, where Python receives no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal that caused an interrupt.

    Args:
        interrupt: Exception of :func:`stop_signals_interrupt`, or Python's own after Ctrl-C.
    """
    return interrupt.args[0] if interrupt.args else signal.SIGINT


_mask_before_fork = threading.local()


def _block_signals() -> None:
    """Block stop signals while this process forks, since CPython drops those that arrive then."""
    _mask_before_fork.value = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask_before_fork.value)


def _reset_forked_worker() -> None:
    """Give stop signals their default action in a forked worker, which its parent ends by signals.

    A Python handler needs a running interpreter. A worker that is stuck in a lock that another
    thread held at the fork would never run it, and nnU-Net's pools would wait for it forever.
    """
    try:
        for number in SIGNALS:
            if getattr(signal.getsignal(number), "__module__", None) == __name__:
                signal.signal(number, signal.SIG_DFL)
    finally:
        _unblock_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_forked_worker)
