"""Parallel work in several processes, with a limited number of results in flight."""

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
    """Loss of a worker process that was killed, most often for lack of memory.

    Attributes:
        items: Items in progress at that time.
    """

    def __init__(self, items: list) -> None:
        super().__init__(f"a worker process was killed while it worked on {items}")
        self.items = items


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def imap_unordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, processes: int
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item with ``function(item)``, in order of completion.

    Args:
        function: Function of one item; it must be picklable unless ``processes`` is 1.
        items: Items; they must be picklable unless ``processes`` is 1.
        processes: Number of worker processes. They end with this process, even if it is killed.
            With 1, this process does the work, in order.

    Yields:
        (item, result).

    Raises:
        ProcessLost: If a worker process was killed.
    """
    if processes == 1:
        yield from ((item, function(item)) for item in items)
        return
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    # Spawned, not forked: a fork may hang while threads (of OpenMP or ITK) are running.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            while True:
                # One item in work and one queued per process, so that results do not accumulate.
                for item in waiting:
                    with _ignore_interrupts():  # inherited by the processes that submit() starts
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
def _ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, which reaches all processes of a terminal but only the parent handles."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
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
