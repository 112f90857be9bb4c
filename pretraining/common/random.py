"""From (seed, index) to generators: the only seed arithmetic of the package."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Generator

SEED_LIMIT = 2**63
"""Seeds, indices and noise seeds are in [0, SEED_LIMIT): what a signed 64-bit integer holds."""


def sample_generator(seed: int, index: int, purpose: str = "") -> Generator:
    """Make the CPU generator that draws the parameters of one sample.

    Args:
        seed: Of the whole data set, in [0, 2**63).
        index: Of the sample, in [0, 2**63).
        purpose: What is drawn; different purposes give independent streams, so that drawing more
            for one changes no other.

    Returns:
        A fresh generator on the CPU, a pure function of the arguments.

    Raises:
        ValueError: If ``seed`` or ``index`` is no integer in [0, 2**63).

    Notes:
        PyTorch's CPU generator takes 32 bits of its seed. Two of 120,000 samples share their draws
        with a probability of about 0.8; they are then equal, which does no harm.
    """
    message = f"{_checked('seed', seed)}/{_checked('index', index)}/{purpose}".encode()
    digest = hashlib.blake2b(message, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") % SEED_LIMIT)


def noise_generator(seed: int, device: torch.device | str) -> Generator:
    """Make the generator that expands ``seed`` into voxelwise noise on ``device``.

    The noise is a pure function of (seed, shape, type of device): a GPU draws other numbers than a
    CPU.

    Raises:
        ValueError: If ``seed`` is no integer in [0, 2**63).
    """
    return torch.Generator(device=device).manual_seed(_checked("noise seed", seed))


def _checked(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SEED_LIMIT:
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value!r}")
    return value


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


def weighted_choice(weights: Sequence[float], generator: Generator) -> int:
    """Draw an index, each with a probability in proportion to its weight; weights are >= 0 and not all 0."""
    bounds = list(accumulate(weights))
    # Without the last bound, no rounding can lead past the last index.
    return bisect_right(bounds[:-1], uniform(0.0, bounds[-1], generator))


def distinct_integers(count: int, size: int, generator: Generator) -> list[int]:
    """Draw ``size`` different integers of {0, ..., count - 1}, ascending."""
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def happens(probability: float, generator: Generator) -> bool:
    """Draw whether an event of this probability takes place; always takes one number from the generator."""
    return uniform(0.0, 1.0, generator) < probability


def noise_seed(generator: Generator) -> int:
    """Draw a seed for :func:`pretraining.common.random.noise_generator`."""
    return integer(0, SEED_LIMIT // 2 - 1, generator)
