"""Process-wide CUDA settings for the length of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cuda_session(device: torch.device) -> Iterator[None]:
    """Make a GPU the current one and let cuDNN choose its kernels by measuring them; put both back in the end.

    Enter it before anything else touches CUDA: each process of torchrun would otherwise also take
    memory of the first GPU. Shapes are the same in every step, so that cuDNN measures once. On
    other devices nothing changes.

    Args:
        device: Where training runs; a GPU with its number.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
