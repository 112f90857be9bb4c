"""Loops over voxels on a CPU, compiled on first use by Numba.

What PyTorch does in ten passes over memory, or can't do without looking at every voxel, a compiled loop does in one. On other
devices each caller has its own way with PyTorch's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

T = TypeVar("T")


def compiled(loop: Callable[..., T]) -> Callable[..., T]:
    """Compile a function of NumPy arrays and numbers; strict IEEE arithmetic, so that results are the same bytes everywhere.

    Notes
    -----
    The machine code is kept beside the source, or in the user's cache folder, so that it is compiled once and not in every worker
    process. Where neither can be written to, each process compiles its own.
    """
    try:
        return numba.njit(loop, cache=True, nogil=True)
    except RuntimeError:  # no folder to cache in
        return numba.njit(loop, nogil=True)
