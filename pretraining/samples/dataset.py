"""A store as a data set for training: stored samples in an order of their own in every epoch, varied anew at every use."""

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
    """Uses ``start``, ``start + stride``, ... of the samples of a store, as (use, :class:`Pair`).

    Uses are numbered through all epochs; use u is a pure function of (store, seed, count, u). Every
    epoch uses each sample once, in an order drawn for it, and every use draws its own variation.
    Inside a ``DataLoader(batch_size=None)`` with W workers, each makes every W-th use, and the
    loader restores the order.
    """

    store: Store
    seed: int
    """Of the orders and the variations."""
    count: int | None = None
    """Use the first so many samples of the store; None: all."""
    start: int = 0
    """First use."""
    stride: int = 1
    """Between uses; with several ranks, their number."""
    length: int | None = None
    """How many uses; None: without end."""
    device: str = "cpu"
    """Where samples are varied; they are always read on the CPU."""

    def __post_init__(self) -> None:
        check_not_negative(start=self.start, length=self.length)
        check_count(stride=self.stride)
        check_within(f"[1, {len(self.store)}]", count=self.sample_count)

    @property
    def sample_count(self) -> int:
        """Samples of an epoch."""
        return len(self.store) if self.count is None else self.count

    def index(self, use: int) -> int:
        """Which stored sample is used."""
        epoch, position = divmod(use, self.sample_count)
        return int(_order(self.seed, epoch, self.sample_count)[position])

    def varied(self, use: int, stored: StoredPair) -> Pair:
        """The stored sample as this use has it, on ``device``."""
        on_device = StoredPair(*(part.to(self.device, non_blocking=True) for part in stored))
        return augment(on_device, self.store.config.engine.online, seed=self.seed, draw=use)

    def __iter__(self) -> Iterator[tuple[int, Pair]]:
        for use, stored in StoredReads(self):
            yield use, self.varied(use, stored)


@dataclass(frozen=True)
class StoredReads(Stream):
    """The samples of :class:`StoredPairs` as they are read, before they are varied: (use, :class:`StoredPair`), on the CPU."""

    pairs: StoredPairs
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[int, StoredPair]]:
        for use in worker_indices(self.pairs.start, self.pairs.stride, self.pairs.length):
            yield use, self.pairs.store.read(self.pairs.index(use))


def load_stored(pairs: StoredPairs, *, workers: int = 0, prefetch: int = 2) -> Iterator[tuple[int, Pair]]:
    """Iterate over ``pairs`` with ``workers`` processes; for a GPU they read and decode only, and samples are varied there."""
    if torch.device(pairs.device).type == "cpu":
        yield from load(pairs, workers=workers, prefetch=prefetch)
    else:
        for use, stored in load(
            StoredReads(pairs), workers=workers, prefetch=prefetch, pin=torch.device(pairs.device).type == "cuda"
        ):
            yield use, pairs.varied(use, stored)


@lru_cache(maxsize=2)  # the epoch that ends and the one that begins
def _order(seed: int, epoch: int, count: int) -> Tensor:
    """(count,) int64: a permutation for each epoch."""
    return torch.randperm(count, generator=sample_generator(seed, epoch, "order"))
