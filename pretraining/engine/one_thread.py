"""Work on the CPU whose result does not depend on how many threads there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """As a ``with`` block or a decorator: PyTorch computes on one thread, and then on as many as before.

    MKL's Fourier transforms of 16, 32 and 64 voxels round differently when lines are shared among threads (torch 2.14), so that a
    sample would depend on the machine, and on whether a worker process, which has one thread, or the main process makes it.
    Samples are made in parallel, not parts of them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
