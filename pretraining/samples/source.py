"""Where training has its samples from: templates, of which they are made on the fly, or a store.

Both give numbered samples, each a pure function of its number, and a few fixed ones for validation
that training never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pretraining.bank.template_bank import TemplateBank, describe_templates
from pretraining.common.config import differences
from pretraining.common.errors import InputError
from pretraining.common.processes import available_cores
from pretraining.engine.synthesis import EngineConfig, Pair, StoredPair, augment, synthesize_pair, synthesize_stored
from pretraining.samples.dataset import StoredPairs, load_stored
from pretraining.samples.store import Store
from pretraining.samples.stream import PairStream, load

FIRST_VALIDATION_INDEX = 2**40
"""Numbers from here on validate; training never gets this far."""
READERS = 4
"""Processes that read for a GPU: a sample takes about 10 ms to read, decode and compare with its
checksum.
"""


@dataclass(frozen=True, kw_only=True)
class TemplateSource:
    """Samples made on the fly."""

    bank: TemplateBank
    engine: EngineConfig
    seed: int
    validation_count: int
    make: Callable[..., Any] = synthesize_pair
    """Makes a sample."""

    def description(self) -> dict[str, Any]:
        """What the samples are made of; JSON types."""
        return describe_templates(self.bank)

    def samples(
        self, *, start: int, stride: int = 1, device: torch.device, workers: int | None = None
    ) -> Iterator[tuple[int, Pair]]:
        """Numbers ``start``, ``start + stride``, ...; made by ``workers`` processes, by default one for a CPU and none for a GPU."""
        workers = (1 if device.type == "cpu" else 0) if workers is None else workers
        common: dict[str, Any] = {
            "bank": self.bank,
            "config": self.engine,
            "seed": self.seed,
            "start": start,
            "stride": stride,
        }
        if not workers:
            return load(PairStream(device=str(device), make=self.make, **common))
        if device.type == "cpu" or self.make is not synthesize_pair:
            return load(PairStream(make=self.make, **common), workers=workers, pin=device.type == "cuda")
        # A third of the bytes travel, and the GPU varies them.
        stored = load(PairStream(make=synthesize_stored, **common), workers=workers, pin=device.type == "cuda")
        return self.varied(stored, device)

    def varied(self, stored: Iterator[tuple[int, StoredPair]], device: torch.device) -> Iterator[tuple[int, Pair]]:
        """Move samples to ``device`` as they are stored, and vary them there."""
        for index, sample in stored:
            moved = StoredPair(*(part.to(device, non_blocking=True) for part in sample))
            yield index, augment(moved, self.engine.online, seed=self.seed, draw=index)

    def validation(self, device: torch.device) -> Iterator[tuple[int, Pair]]:
        """Samples of the same kind, far beyond those of training."""
        for index in range(FIRST_VALIDATION_INDEX, FIRST_VALIDATION_INDEX + self.validation_count):
            yield index, self.make(self.bank, self.engine, seed=self.seed, index=index, device=device)


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """Samples of a store, whose last ones are held out for validation.

    Any would do, as all are drawn alike; so no templates are needed where a store is trained on.
    """

    store: Store
    engine: EngineConfig
    seed: int
    validation_count: int

    def __post_init__(self) -> None:
        if changed := differences(self.store.config.engine, self.engine):
            fields = "; ".join(f"engine.{line}" for line in changed)
            raise InputError(
                f"{self.store.path} was made with another engine configuration ({fields}); leave these as they are"
            )
        if len(self.store) <= self.validation_count:
            raise InputError(
                f"{self.store.path} has {len(self.store)} samples, of which validation_pairs={self.validation_count} would be held out; "
                "make a larger store, or hold out fewer"
            )

    @property
    def training_count(self) -> int:
        """Samples that are not held out."""
        return len(self.store) - self.validation_count

    def description(self) -> dict[str, Any]:
        """What the samples were made of, and which they are; JSON types."""
        config = self.store.config
        return {**config.templates, "stored": {"count": config.count, "seed": config.seed, "device": config.device}}

    def samples(
        self, *, start: int, stride: int = 1, device: torch.device, workers: int | None = None
    ) -> Iterator[tuple[int, Pair]]:
        """Uses ``start``, ``start + stride``, ...; read by ``workers`` processes, by default one for a CPU and a few for a GPU."""
        workers = (1 if device.type == "cpu" else min(READERS, available_cores())) if workers is None else workers
        pairs = StoredPairs(
            store=self.store, seed=self.seed, count=self.training_count, start=start, stride=stride, device=str(device)
        )
        return load_stored(pairs, workers=workers)

    def validation(self, device: torch.device) -> Iterator[tuple[int, Pair]]:
        """The samples held out, varied always in the same way."""
        for i in range(self.validation_count):
            number = FIRST_VALIDATION_INDEX + i
            stored = StoredPair(*(part.to(device) for part in self.store.read(self.training_count + i)))
            yield number, augment(stored, self.engine.online, seed=self.seed, draw=number)


def sample_source(
    given: TemplateBank | Store,
    engine: EngineConfig,
    *,
    seed: int,
    validation_count: int,
    make: Callable[..., Any] = synthesize_pair,
) -> TemplateSource | StoreSource:
    """The samples that training takes from a bank or a store.

    Raises:
        InputError: If the store was made with another engine configuration, or is too small to hold
            out ``validation_count`` samples, or samples of another kind than pairs are wanted of
            it.
    """
    common: dict[str, Any] = {"engine": engine, "seed": seed, "validation_count": validation_count}
    if not isinstance(given, Store):
        return TemplateSource(bank=given, make=make, **common)
    if make is not synthesize_pair:
        raise InputError(
            "a store has no clean images and no classes, which this objective learns from; use --templates"
        )
    return StoreSource(store=given, **common)
