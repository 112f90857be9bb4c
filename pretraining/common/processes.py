"""Work done by several processes, never far ahead of whoever wants the results."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProcessLost(RuntimeError):
    """A process was ended from outside, most often because memory ran out; ``items`` is what was being worked on."""

    def __init__(self, items: list) -> None:
        super().__init__(f"a process was ended from outside while working on {items}")
        self.items = items


def available_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def imap_unordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, processes: int
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item with ``function(item)``, in whatever order they get finished.

    Args:
        function, items: To be pickled, unless ``processes`` is 1: then all is done here, in order.
        processes: How many to start; they end when this one does, even if it is killed.

    Raises:
        ProcessLost: If one of them was ended from outside.
    """
    if processes == 1:
        yield from ((item, function(item)) for item in items)
        return
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    # Spawned, not forked: a fork beside running threads (OpenMP's, ITK's) may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            while True:
                # One item for each to begin with when it is ready, and no more: what is finished
                # must not pile up.
                for item in waiting:
                    with (
                        _interrupts_ignored()
                    ):  # inherited by the processes that this starts, from their first moment on
                        running[pool.submit(function, item)] = item
                    if len(running) >= 2 * processes:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            raise ProcessLost(list(running.values())) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; what it means is decided by the first of them."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    parent = parent_process()
    if parent is None:  # not a worker process
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
