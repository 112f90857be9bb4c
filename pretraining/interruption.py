"""Being asked to stop: the work in hand is finished and saved, then the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""Slurm sends SIGTERM, or what ``--signal`` names, ahead of a job's end; Ctrl-C is SIGINT."""


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
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: object) -> None:
        stop.signal = signal.Signals(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
