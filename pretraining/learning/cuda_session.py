"""Process-wide CUDA settings for the duration of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cuda_session(device: torch.device) -> Iterator[None]:
    """Select a GPU and enable cuDNN's benchmark mode; restore both at the end.

    Enter it before anything else touches CUDA: otherwise each process of torchrun would also take
    memory of the first GPU. Shapes are the same in every step, so cuDNN measures its kernels once.
    On other devices nothing changes.

    Args:
        device: Device of the training; a GPU with its number.
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
