"""Ordered streams of samples, made in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.checks import check_count, check_not_negative
from pretraining.engine.synthesis import EngineConfig, synthesize_pair


class Stream(IterableDataset[tuple[int, Any]]):
    """Data set that yields numbered samples; in a worker, those of :func:`worker_indices`."""

    device: str


@dataclass(frozen=True, kw_only=True)
class PairStream(Stream):
    """Stream of the samples ``start``, ``start + stride``, ... as (index, :class:`Pair`).

    Inside a ``DataLoader(batch_size=None)`` with W workers, each makes every W-th sample, and the
    loader, which polls its workers in turn, restores the order. Samples and order do not depend on
    the number of workers.
    """

    bank: TemplateBank
    """Organ templates."""
    config: EngineConfig
    """Configuration of the synthesis."""
    seed: int
    """Seed of the samples."""
    start: int = 0
    """Index of the first sample."""
    stride: int = 1
    """Step between indices; with several ranks, their number."""
    length: int | None = None
    """Number of samples. Default: unlimited."""
    device: str = "cpu"
    """Device that makes samples; worker processes use the CPU."""
    make: Callable[..., Any] = synthesize_pair
    """Function that makes a :class:`Pair` or another named tuple of tensors; can be pickled."""

    def __post_init__(self) -> None:
        check_not_negative(start=self.start, length=self.length)
        check_count(stride=self.stride)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for index in worker_indices(self.start, self.stride, self.length):
            yield index, self.make(self.bank, self.config, seed=self.seed, index=index, device=self.device)


def worker_indices(start: int, stride: int, length: int | None) -> Iterator[int]:
    """Yield the indices of a stream, or this ``DataLoader`` worker's share of them.

    Args:
        start: First index.
        stride: Step between indices.
        length: Number of indices of the whole stream; None: unlimited.
    """
    worker = get_worker_info()
    position, step = (worker.id, worker.num_workers) if worker else (0, 1)
    while length is None or position < length:
        yield start + position * stride
        position += step


def load(stream: Stream, *, workers: int = 0, prefetch: int = 2, pin: bool = False) -> Iterator[tuple[int, Any]]:
    """Iterate over a stream.

    Args:
        stream: Stream of numbered samples.
        workers: Number of worker processes with one thread each; 0: this process.
        prefetch: Largest number of samples that each worker is ahead.
        pin: Use of page-locked memory, from which a GPU copies asynchronously; needs CUDA.

    Raises:
        ValueError: If worker processes would use another device than the CPU.
    """
    if workers and torch.device(stream.device).type != "cpu":
        raise ValueError(
            f"worker processes make samples on the CPU, got device {stream.device!r}; use workers=0 on other devices"
        )
    # The loader draws an unused seed for its workers; keep it off the global generator.
    loader: DataLoader[tuple[int, Any]] = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),
    )
    return iter(loader)
