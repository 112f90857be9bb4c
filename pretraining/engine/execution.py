"""From host to device without making the host wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numba
import numpy as np
import torch
from torch import Tensor


def upload(array: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Copy a host array to ``device``; on CUDA through pinned memory, so that the host runs ahead of the device.

    On the CPU nothing is copied and the result shares memory with ``array``.
    """
    host = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if torch.device(device).type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


T = TypeVar("T")


def compile_loop(loop: Callable[..., T]) -> Callable[..., T]:
    """Compile a function of NumPy arrays and numbers; strict IEEE arithmetic, so that results are the same bytes everywhere.

    Notes:
        The machine code is kept beside the source, or in the user's cache folder, so that it is
        compiled once and not in every worker process. Where neither can be written to, each process
        compiles its own.
    """
    try:
        return numba.njit(loop, cache=True, nogil=True)
    except RuntimeError:  # no folder to cache in
        return numba.njit(loop, nogil=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """As a ``with`` block or a decorator: PyTorch computes on one thread, and then on as many as before.

    MKL's Fourier transforms of 16, 32 and 64 voxels round differently when lines are shared among
    threads (torch 2.14), so that a sample would depend on the machine, and on whether a worker
    process, which has one thread, or the main process makes it. Samples are made in parallel, not
    parts of them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
