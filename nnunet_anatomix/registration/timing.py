"""Wall times of the stages of a registration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Measure the wall time of a ``with`` block and store it, s, as ``seconds[stage]``."""
    begin = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - begin, 2)
