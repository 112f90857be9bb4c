"""Samples on the fly, in order, from this process or from worker processes."""

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
    """What can be loaded: yields numbered samples, in a worker process those of :func:`worker_indices`."""

    device: str


@dataclass(frozen=True, kw_only=True)
class PairStream(Stream):
    """Samples ``start``, ``start + stride``, ... of one data set, as (index, :class:`Pair`).

    Inside a ``DataLoader(batch_size=None)`` with W workers, each makes every W-th sample, and the
    loader, which asks its workers in turn, restores the order: samples and order are those of no
    workers at all.
    """

    bank: TemplateBank
    config: EngineConfig
    seed: int
    start: int = 0
    """First index."""
    stride: int = 1
    """Between indices; with several ranks, their number."""
    length: int | None = None
    """How many samples; None: without end."""
    device: str = "cpu"
    """Where samples are made; worker processes are for the CPU."""
    make: Callable[..., Any] = synthesize_pair
    """Makes a sample, a :class:`Pair` or another named tuple of tensors; to be pickled."""

    def __post_init__(self) -> None:
        check_not_negative(start=self.start, length=self.length)
        check_count(stride=self.stride)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for index in worker_indices(self.start, self.stride, self.length):
            yield index, self.make(self.bank, self.config, seed=self.seed, index=index, device=self.device)


def worker_indices(start: int, stride: int, length: int | None) -> Iterator[int]:
    """The numbers of a stream, or those of them that fall to this worker process of a ``DataLoader``."""
    worker = get_worker_info()
    position, step = (worker.id, worker.num_workers) if worker else (0, 1)
    while length is None or position < length:
        yield start + position * stride
        position += step


def load(stream: Stream, *, workers: int = 0, prefetch: int = 2, pin: bool = False) -> Iterator[tuple[int, Any]]:
    """Iterate over a stream.

    Args:
        stream: Yields numbered samples.
        workers: Processes, each one thread wide; 0: this one.
        prefetch: Samples that each process is ahead at most.
        pin: Put samples in page-locked memory, from where a GPU copies them while the host goes on;
            needs CUDA.

    Raises:
        ValueError: If processes were to make samples on another device than the CPU.
    """
    if workers and torch.device(stream.device).type != "cpu":
        raise ValueError(
            f"worker processes make samples on the CPU, got device {stream.device!r}; use workers=0 on other devices"
        )
    # The loader draws a seed for its workers, which they have no use for: from a generator of its
    # own, not from the global one.
    loader: DataLoader[tuple[int, Any]] = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),
    )
    return iter(loader)
