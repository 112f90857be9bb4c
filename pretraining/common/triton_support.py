"""Detection of Triton support and launch of Triton kernels.

Triton comes with PyTorch for CUDA. If it is missing or cannot compile, PyTorch's own operations
compute the same in more steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

log = logging.getLogger(__name__)


@cache
def can_run_triton(device: torch.device) -> bool:
    """Tell whether Triton is installed, and compiles and runs a kernel on a device.

    The result is cached per device.

    Args:
        device: Any device; False unless it is a CUDA device.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        from pretraining.common.probe_kernel import add_one

        numbers = torch.arange(8, dtype=torch.int32, device=device)
        launch(add_one, (1,), numbers, block=8)
        works = numbers.tolist() == list(range(1, 9))
    except Exception as error:  # compilers and drivers raise many types
        works = False
        log.debug("Triton on %s", device, exc_info=error)
    if not works:
        log.warning("Triton cannot compile for %s; PyTorch's own, slower kernels are used", device)
    return works


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, block: int) -> None:
    """Run a kernel on its first argument's device, in the current stream.

    Args:
        kernel: Function decorated by ``triton.jit`` whose last parameter is ``BLOCK``.
        grid: Number of programs along each axis.
        *arguments: Tensors and numbers, the first one a tensor.
        block: Elements of one program, a power of 2.

    Notes:
        Multiplications and additions are never fused, so that results equal those of PyTorch's
        operations bit by bit.
    """
    first = arguments[0]
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[tuple(grid)](*arguments, BLOCK=block, enable_fp_fusion=False)
