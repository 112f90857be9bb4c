"""Which voxels of a label map enter the loss, at every level of the network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def labels_at_level(labels: Tensor, level: int) -> Tensor:
    """Labels on a grid that was halved ``level`` times, by nearest neighbour (the first voxel of every block).

    Parameters
    ----------
    labels : (X, Y, Z) integers.

    Returns
    -------
    (X / 2^level, Y / 2^level, Z / 2^level), a view.
    """
    step = 2**level
    return labels[::step, ::step, ::step]


def sample_positions(labels: Tensor, count: int, *, balanced: bool, generator: Generator) -> Tensor:
    """Draw distinct voxels of a label map.

    Parameters
    ----------
    labels : (X, Y, Z) non-negative integers below 256.
    count : how many; all voxels if the grid has no more.
    balanced : a voxel's chance is inverse to the size of its label, so that small structures weigh as much as the
        background; otherwise all voxels are equally likely, as published.
    generator : on the device of ``labels``.

    Returns
    -------
    (min(count, X·Y·Z),) int64, flat indices in ascending order of luck.

    Notes
    -----
    Every voxel waits an exponential time whose rate is its weight; those that come first are drawn. This is weighted
    drawing without replacement (Efraimidis and Spirakis, 2006), and asks for no number to leave the device.
    """
    flat = labels.flatten().long()
    waiting = torch.empty(flat.shape, device=flat.device).exponential_(generator=generator)
    if balanced:
        # scatter_add over ones, not bincount, which would wait for the device to learn its length.
        sizes = torch.zeros(256, device=flat.device).index_add_(0, flat, torch.ones_like(waiting))
        waiting = waiting * sizes[flat]
    return waiting.topk(min(count, len(flat)), largest=False).indices


def features_at(features: Tensor, positions: Tensor) -> Tensor:
    """Read the features of voxels.

    Parameters
    ----------
    features : (B, C, X, Y, Z).
    positions : (n,) flat indices into (X, Y, Z), the same for all of B.

    Returns
    -------
    (B, n, C).
    """
    return features.flatten(2).index_select(2, positions).transpose(1, 2)
