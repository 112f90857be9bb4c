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


def sample_positions(labels: Tensor, count: int, *, balanced_share: float, generator: Generator) -> Tensor:
    """Draw distinct voxels of a label map.

    Parameters
    ----------
    labels : (X, Y, Z) non-negative integers below 256.
    count : how many; all voxels if the grid has no more.
    balanced_share : in [0, 1]: this share of the chance is dealt out to the labels alike, so that small structures weigh as much as
        the background, and the rest to all voxels alike. 0 is the published way.
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
    if balanced_share:
        # index_add over ones, not bincount, which would wait for the device to learn its length.
        sizes = torch.zeros(256, device=flat.device).index_add_(0, flat, torch.ones_like(waiting))
        weights = balanced_share / ((sizes > 0).sum() * sizes.clamp_min(1)) + (1 - balanced_share) / len(flat)
        waiting = waiting / weights[flat]
    return waiting.topk(min(count, len(flat)), largest=False).indices


def features_at(features: Tensor, positions: Tensor) -> Tensor:
    """Read the features of voxels.

    Args:
        features: (B, C, X, Y, Z).
        positions: (n,) int64 flat indices into (X, Y, Z), the same for all of B; a voxel may be read several times.

    Returns:
        (B, n, C).

    Notes:
        In channels-last layout the features of a voxel lie side by side, and so does their gradient, which has the layout of
        ``features``. Indexing by a tensor adds gradients in a fixed order on every device; ``index_select`` uses atomics.
    """
    if features.stride(1) == 1:
        return features.permute(0, 2, 3, 4, 1).flatten(1, 3)[:, positions]
    return features.flatten(2)[:, :, positions].transpose(1, 2)
