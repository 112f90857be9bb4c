"""From (seed, index) to generators: the only seed arithmetic of the package."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator

SEED_LIMIT = 2**63
"""Seeds, indices and noise seeds are in [0, SEED_LIMIT): what a signed 64-bit integer holds."""


def sample_generator(seed: int, index: int, purpose: str = "") -> Generator:
    """Make the CPU generator that draws the parameters of one sample.

    Parameters
    ----------
    seed : of the whole data set, in [0, 2**63).
    index : of the sample, in [0, 2**63).
    purpose : what is drawn; different purposes give independent streams, so that drawing more for one changes no other.

    Returns
    -------
    A fresh generator on the CPU, a pure function of the arguments.

    Raises
    ------
    ValueError
        If ``seed`` or ``index`` is no integer in [0, 2**63).

    Notes
    -----
    PyTorch's CPU generator takes 32 bits of its seed. Two of 120,000 samples share their draws with a probability
    of about 0.8; they are then equal, which does no harm.
    """
    message = f"{_checked('seed', seed)}/{_checked('index', index)}/{purpose}".encode()
    digest = hashlib.blake2b(message, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") % SEED_LIMIT)


def noise_generator(seed: int, device: torch.device | str) -> Generator:
    """Make the generator that expands ``seed`` into voxelwise noise on ``device``.

    The noise is a pure function of (seed, shape, type of device): a GPU draws other numbers than a CPU.

    Raises
    ------
    ValueError
        If ``seed`` is no integer in [0, 2**63).
    """
    return torch.Generator(device=device).manual_seed(_checked("noise seed", seed))


def _checked(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SEED_LIMIT:
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value!r}")
    return value
