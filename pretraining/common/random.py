"""Random generators from (seed, index), and draws from them; the package's only seed arithmetic."""

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
    """Create the CPU generator that draws the parameters of one sample.

    Args:
        seed: Seed of the whole data set, in [0, 2**63).
        index: Index of the sample, in [0, 2**63).
        purpose: Name of the random stream. Streams are independent, so that more draws from one
            change no other.

    Returns:
        A new generator on the CPU, a pure function of the arguments.

    Raises:
        ValueError: If ``seed`` or ``index`` is not an integer in [0, 2**63).

    Notes:
        PyTorch's CPU generator uses 32 bits of its seed. The probability that any two of 120,000
        samples share their draws is about 0.8; such samples are equal, which is harmless.
    """
    message = f"{_validate('seed', seed)}/{_validate('index', index)}/{purpose}".encode()
    digest = hashlib.blake2b(message, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") % SEED_LIMIT)


def noise_generator(seed: int, device: torch.device | str) -> Generator:
    """Create the generator that expands a seed into voxelwise noise.

    The noise is a pure function of (seed, shape, device type): numbers differ between GPU and CPU.

    Args:
        seed: Seed in [0, 2**63), see :func:`noise_seed`.
        device: Device of the noise.

    Raises:
        ValueError: If ``seed`` is not an integer in [0, 2**63).
    """
    return torch.Generator(device=device).manual_seed(_validate("noise seed", seed))


def _validate(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SEED_LIMIT:
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value!r}")
    return value


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a value from U[low, high)."""
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
    """Draw an index with probability proportional to its weight.

    Args:
        weights: Weights, >= 0 and not all 0.
        generator: Source of randomness.
    """
    bounds = list(accumulate(weights))
    # Without the last bound, rounding cannot lead past the last index.
    return bisect_right(bounds[:-1], uniform(0.0, bounds[-1], generator))


def distinct_integers(count: int, size: int, generator: Generator) -> list[int]:
    """Draw ``size`` distinct integers from {0, ..., count - 1}, in ascending order."""
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def happens(probability: float, generator: Generator) -> bool:
    """Draw whether an event occurs; always consumes one number of the generator.

    Args:
        probability: Probability of the event, in [0, 1].
        generator: Source of randomness.
    """
    return uniform(0.0, 1.0, generator) < probability


def noise_seed(generator: Generator) -> int:
    """Draw a seed for :func:`noise_generator`."""
    return integer(0, SEED_LIMIT // 2 - 1, generator)
