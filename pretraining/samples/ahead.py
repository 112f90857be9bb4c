"""Prefetching of samples on a GPU: in a side stream, a few ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from pretraining.engine.synthesis import Pair


def prefetch_to_device(
    samples: Iterator[tuple[int, Pair]], device: torch.device, *, depth: int = 2
) -> Iterator[tuple[int, Pair]]:
    """Yield samples in order, on ``device``; on a GPU prepare the next ones ahead.

    Args:
        samples: Numbered samples, made on ``device`` on demand, or made elsewhere and copied.
        device: Device of the samples. A CPU prefetches nothing; use worker processes there.
        depth: Largest number of prefetched samples, which bounds the memory.

    Yields:
        The numbered samples.

    Notes:
        On CUDA all kernels of a sample are queued in a side stream, where they fill the gaps of the
        training's stream. The host and the training's stream wait only for the sample that they
        take.
    """
    if device.type != "cuda":
        for index, pair in samples:
            yield index, type(pair)(*(part.to(device) for part in pair))
        return
    side = torch.cuda.Stream(device)
    queue: deque[tuple[int, Pair, torch.cuda.Event]] = deque()
    while True:
        while len(queue) < depth:
            with torch.cuda.stream(side):
                sample = next(samples, None)
                if sample is None:
                    break
                index, pair = sample
                pair = type(pair)(*(part.to(device, non_blocking=True) for part in pair))
                queue.append((index, pair, side.record_event()))
        if not queue:
            return
        index, pair, ready = queue.popleft()
        training_stream = torch.cuda.current_stream(device)
        training_stream.wait_event(ready)
        for part in pair:
            # Otherwise the side stream would reuse this memory while the step still reads it.
            part.record_stream(training_stream)
        yield index, pair
