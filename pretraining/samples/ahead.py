"""Samples made on a GPU while it trains: in a stream of their own, a few ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from pretraining.engine.synthesis import Pair


def prefetch_to_device(
    samples: Iterator[tuple[int, Pair]], device: torch.device, *, depth: int = 2
) -> Iterator[tuple[int, Pair]]:
    """Yield the same samples in the same order, on ``device``.

    Args:
        samples: Made on ``device`` as they are asked for, or made elsewhere and copied here.
        device: Where they are needed. On a CPU nothing is made ahead; that is what worker processes
            are for.
        depth: Samples under way at most, which bounds the memory.

    Notes:
        On CUDA all kernels of a sample are queued in a side stream, where they fill the gaps of the
        training's own. Neither the host nor the training's stream waits for more than the one
        sample that it takes.
    """
    if device.type != "cuda":
        for index, pair in samples:
            yield index, type(pair)(*(part.to(device) for part in pair))
        return
    side = torch.cuda.Stream(device)
    under_way: deque[tuple[int, Pair, torch.cuda.Event]] = deque()
    while True:
        while len(under_way) < depth:
            with torch.cuda.stream(side):
                taken = next(samples, None)
                if taken is None:
                    break
                index, pair = taken
                pair = type(pair)(*(part.to(device, non_blocking=True) for part in pair))
                under_way.append((index, pair, side.record_event()))
        if not under_way:
            return
        index, pair, made = under_way.popleft()
        taker = torch.cuda.current_stream(device)
        taker.wait_event(made)
        for part in pair:
            # Else the side stream would write its next sample over this one while the step still
            # reads it.
            part.record_stream(taker)
        yield index, pair
