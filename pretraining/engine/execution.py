"""Execution on CPU and GPU: asynchronous uploads, compiled loops, one thread per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numba
import numpy as np
import torch
from torch import Tensor


def upload(array: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Copy a host array to ``device`` without waiting for the device.

    Copies to CUDA use pinned memory. On the CPU nothing is copied, and the result shares memory
    with ``array``.
    """
    host = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if torch.device(device).type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


T = TypeVar("T")


def compile_loop(loop: Callable[..., T]) -> Callable[..., T]:
    """Compile a function of NumPy arrays and numbers with Numba.

    Notes:
        Arithmetic is strict IEEE, so that results have the same bytes on every machine. The machine
        code is cached next to the source or in the user's cache folder, so that not every worker
        process compiles it. Where neither is writable, each process compiles its own.
    """
    try:
        return numba.njit(loop, cache=True, nogil=True)
    except RuntimeError:  # no writable cache folder
        return numba.njit(loop, nogil=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread within a ``with`` block or a decorated function.

    Notes:
        MKL's Fourier transforms of 16, 32 and 64 voxels round differently when threads share the
        lines (torch 2.14). A sample would then depend on the machine, and on whether a worker
        process, which has one thread, or the main process computes it. Parallelism is over samples,
        not within one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
