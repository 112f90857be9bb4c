"""Scalars and choices from one CPU generator: what every ``sample_x`` is made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Generator

from pretraining.engine.seeds import SEED_LIMIT


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw from U[low, high)."""
    return uniforms(1, low, high, generator)[0]


def uniforms(count: int, low: float, high: float, generator: Generator) -> list[float]:
    """Draw ``count`` independent values from U[low, high)."""
    return [low + (high - low) * u for u in torch.rand(count, generator=generator, dtype=torch.float64).tolist()]


def integer(low: int, high: int, generator: Generator) -> int:
    """Draw an integer from U{low, ..., high}, both ends included."""
    return integers(1, low, high, generator)[0]


def integers(count: int, low: int, high: int, generator: Generator) -> list[int]:
    """Draw ``count`` independent integers from U{low, ..., high}, both ends included."""
    return torch.randint(low, high + 1, (count,), generator=generator).tolist()


def weighted(weights: Sequence[float], generator: Generator) -> int:
    """Draw an index, each with a probability in proportion to its weight; weights are >= 0 and not all 0."""
    bounds = list(accumulate(weights))
    # Without the last bound, no rounding can lead past the last index.
    return bisect_right(bounds[:-1], uniform(0.0, bounds[-1], generator))


def subset(count: int, size: int, generator: Generator) -> list[int]:
    """Draw ``size`` different integers of {0, ..., count - 1}, ascending."""
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def happens(probability: float, generator: Generator) -> bool:
    """Draw whether an event of this probability takes place; always takes one number from the generator."""
    return uniform(0.0, 1.0, generator) < probability


def noise_seed(generator: Generator) -> int:
    """Draw a seed for :func:`pretraining.engine.seeds.noise_generator`."""
    return integer(0, SEED_LIMIT // 2 - 1, generator)
