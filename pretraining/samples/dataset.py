"""Training data set of stored samples, shuffled in every epoch and augmented at every use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pretraining.common.checks import check_count, check_not_negative, check_within
from pretraining.common.random import sample_generator
from pretraining.engine.synthesis import Pair, StoredPair, augment
from pretraining.samples.store import Store
from pretraining.samples.stream import Stream, load, worker_indices


@dataclass(frozen=True, kw_only=True)
class StoredPairs(Stream):
    """Stream of uses of stored samples, as (use, :class:`Pair`).

    The uses are ``start``, ``start + stride``, and so on. They are numbered through all epochs; use
    u is a pure function of (store, seed, count, u). Every epoch uses each sample once, in a random
    order, and every use draws its own variation. Inside a ``DataLoader(batch_size=None)`` with W
    workers, each worker makes every W-th use, and the loader restores the order.
    """

    store: Store
    """Store of the samples."""
    seed: int
    """Seed of the orders and the variations."""
    count: int | None = None
    """Number of samples to use, the first ones of the store. Default: all."""
    start: int = 0
    """Number of the first use."""
    stride: int = 1
    """Step between uses; with several ranks, their number."""
    length: int | None = None
    """Number of uses. Default: unlimited."""
    device: str = "cpu"
    """Device that varies samples; the CPU reads them."""

    def __post_init__(self) -> None:
        check_not_negative(start=self.start, length=self.length)
        check_count(stride=self.stride)
        check_within(f"[1, {len(self.store)}]", count=self.sample_count)

    @property
    def sample_count(self) -> int:
        """Number of samples per epoch."""
        return len(self.store) if self.count is None else self.count

    def index(self, use: int) -> int:
        """Return the index of the stored sample of a use."""
        epoch, position = divmod(use, self.sample_count)
        return int(_shuffle(self.seed, epoch, self.sample_count)[position])

    def apply_variation(self, use: int, stored: StoredPair) -> Pair:
        """Return a stored sample with the variation of a use, on ``device``."""
        on_device = StoredPair(*(part.to(self.device, non_blocking=True) for part in stored))
        return augment(on_device, self.store.config.engine.online, seed=self.seed, draw=use)

    def __iter__(self) -> Iterator[tuple[int, Pair]]:
        for use, stored in StoredReads(self):
            yield use, self.apply_variation(use, stored)


@dataclass(frozen=True)
class StoredReads(Stream):
    """Stream of the stored samples of :class:`StoredPairs`, not yet varied, on the CPU.

    Yields (use, :class:`StoredPair`).
    """

    pairs: StoredPairs
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[int, StoredPair]]:
        for use in worker_indices(self.pairs.start, self.pairs.stride, self.pairs.length):
            yield use, self.pairs.store.read(self.pairs.index(use))


def load_stored(pairs: StoredPairs, *, workers: int = 0, prefetch: int = 2) -> Iterator[tuple[int, Pair]]:
    """Iterate over ``pairs``; for a GPU, worker processes only read, and the GPU varies samples.

    Args:
        pairs: Stream of uses.
        workers: Number of worker processes; 0: this process.
        prefetch: Largest number of samples that each worker is ahead.
    """
    if torch.device(pairs.device).type == "cpu":
        yield from load(pairs, workers=workers, prefetch=prefetch)
    else:
        for use, stored in load(
            StoredReads(pairs), workers=workers, prefetch=prefetch, pin=torch.device(pairs.device).type == "cuda"
        ):
            yield use, pairs.apply_variation(use, stored)


@lru_cache(maxsize=2)  # for the epoch that ends and the one that begins
def _shuffle(seed: int, epoch: int, count: int) -> Tensor:
    """Return the (count,) int64 permutation of an epoch."""
    return torch.randperm(count, generator=sample_generator(seed, epoch, "order"))
