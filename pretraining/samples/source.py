"""Sources of training samples: organ templates, for samples made on the fly, or a store.

Both yield numbered samples, each a pure function of its number, and a few fixed validation samples
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
"""Index of the first validation sample, which training never reaches."""
READERS = 4
"""Number of processes that read for a GPU; reading one sample takes about 10 ms."""


@dataclass(frozen=True, kw_only=True)
class TemplateSource:
    """Source of samples made on the fly."""

    bank: TemplateBank
    engine: EngineConfig
    seed: int
    validation_count: int
    make: Callable[..., Any] = synthesize_pair
    """Function that makes a sample, see :func:`~pretraining.engine.synthesis.synthesize_pair`."""

    def describe(self) -> dict[str, Any]:
        """Describe the templates, as JSON types."""
        return describe_templates(self.bank)

    def samples(
        self, *, start: int, stride: int = 1, device: torch.device, workers: int | None = None
    ) -> Iterator[tuple[int, Pair]]:
        """Yield the samples ``start``, ``start + stride``, and so on.

        Args:
            start: Index of the first sample.
            stride: Step between indices.
            device: Device that needs the samples.
            workers: Number of processes that make samples. Default: one for a CPU, none for a GPU,
                which makes the samples itself.
        """
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
        # Transfer the stored form, a third of the bytes, and vary it on the GPU.
        stored = load(PairStream(make=synthesize_stored, **common), workers=workers, pin=device.type == "cuda")
        return self.apply_variation(stored, device)

    def apply_variation(
        self, stored: Iterator[tuple[int, StoredPair]], device: torch.device
    ) -> Iterator[tuple[int, Pair]]:
        """Move stored samples to ``device`` and vary them there.

        Args:
            stored: Numbered samples before the variation.
            device: Device that varies them.
        """
        for index, sample in stored:
            moved = StoredPair(*(part.to(device, non_blocking=True) for part in sample))
            yield index, augment(moved, self.engine.online, seed=self.seed, draw=index)

    def validation(self, device: torch.device) -> Iterator[tuple[int, Pair]]:
        """Yield the validation samples, whose indices training never reaches."""
        for index in range(FIRST_VALIDATION_INDEX, FIRST_VALIDATION_INDEX + self.validation_count):
            yield index, self.make(self.bank, self.engine, seed=self.seed, index=index, device=device)


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """Source of stored samples, of which the last ones are held out for validation.

    All samples are drawn alike, so that training from a store needs no templates.
    """

    store: Store
    engine: EngineConfig
    seed: int
    validation_count: int

    def __post_init__(self) -> None:
        if changed := differences(self.store.config.engine, self.engine):
            fields = "; ".join(f"engine.{line}" for line in changed)
            raise InputError(
                f"{self.store.path} was made with another engine configuration ({fields}); do not change these"
            )
        if len(self.store) <= self.validation_count:
            raise InputError(
                f"{self.store.path} has {len(self.store)} samples, of which validation_pairs="
                f"{self.validation_count} would be held out; make a larger store, or hold out fewer"
            )

    @property
    def training_count(self) -> int:
        """Number of samples that are not held out."""
        return len(self.store) - self.validation_count

    def describe(self) -> dict[str, Any]:
        """Describe the templates and the store, as JSON types."""
        config = self.store.config
        return {**config.templates, "stored": {"count": config.count, "seed": config.seed, "device": config.device}}

    def samples(
        self, *, start: int, stride: int = 1, device: torch.device, workers: int | None = None
    ) -> Iterator[tuple[int, Pair]]:
        """Yield the uses ``start``, ``start + stride``, and so on, of stored samples.

        Args:
            start: Number of the first use.
            stride: Step between uses.
            device: Device that needs the samples.
            workers: Number of processes that read samples. Default: one for a CPU, up to four for a
                GPU.
        """
        workers = (1 if device.type == "cpu" else min(READERS, available_cores())) if workers is None else workers
        pairs = StoredPairs(
            store=self.store, seed=self.seed, count=self.training_count, start=start, stride=stride, device=str(device)
        )
        return load_stored(pairs, workers=workers)

    def validation(self, device: torch.device) -> Iterator[tuple[int, Pair]]:
        """Yield the held-out samples, always with the same variation."""
        for i in range(self.validation_count):
            number = FIRST_VALIDATION_INDEX + i
            stored = StoredPair(*(part.to(device) for part in self.store.read(self.training_count + i)))
            yield number, augment(stored, self.engine.online, seed=self.seed, draw=number)


def sample_source(
    data: TemplateBank | Store,
    engine: EngineConfig,
    *,
    seed: int,
    validation_count: int,
    make: Callable[..., Any] = synthesize_pair,
) -> TemplateSource | StoreSource:
    """Make the source of training samples from a bank or a store.

    Args:
        data: Organ templates or stored samples.
        engine: Configuration of the synthesis.
        seed: Seed of the samples, or of the order and variation of stored ones.
        validation_count: Number of validation samples.
        make: Function that makes a sample.

    Raises:
        InputError: If the store was made with another engine configuration, is too small to hold
            out ``validation_count`` samples, or is used with another ``make`` than pairs.
    """
    common: dict[str, Any] = {"engine": engine, "seed": seed, "validation_count": validation_count}
    if not isinstance(data, Store):
        return TemplateSource(bank=data, make=make, **common)
    if make is not synthesize_pair:
        raise InputError(
            "a store has no clean images and no classes, which this objective learns from; use --templates"
        )
    return StoreSource(store=data, **common)
