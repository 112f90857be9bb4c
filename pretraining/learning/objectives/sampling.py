"""Which voxels of a label map enter the loss, at every level of the network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

BlockLabel = Literal["centre", "corner"]
"""Which voxel of a block gives its label: the one at the middle, or the first one (the published
way).
"""


def labels_at_level(labels: Tensor, level: int, block_label: BlockLabel = "centre") -> Tensor:
    """Labels on a grid that was halved ``level`` times: of one voxel of every block of 2^level voxels a side.

    Args:
        labels: (X, Y, Z) integers.
        level: Halvings of the resolution.
        block_label: ``centre`` takes the voxel just after the block's middle, ``corner`` the first
            one, as the published code does.

    Returns:
        (X / 2^level, Y / 2^level, Z / 2^level), a view.

    Notes:
        The drawn label fills .59/.50/.41 of its block at levels 2/3/4 with the centre, and
        .48/.33/.29 with the corner (balanced draws).
    """
    step = 2**level
    start = step // 2 if block_label == "centre" else 0
    return labels[start::step, start::step, start::step]


def sample_positions(labels: Tensor, count: int, *, balanced_share: float, generator: Generator) -> Tensor:
    """Draw distinct voxels of a label map.

    Args:
        labels: (X, Y, Z) non-negative integers below 256.
        count: How many; all voxels if the grid has no more.
        balanced_share: In [0, 1]: this share of the chance is dealt out to the labels alike, so
            that small structures weigh as much as the background, and the rest to all voxels alike.
            0 is the published way.
        generator: On the device of ``labels``.

    Returns:
        (min(count, X·Y·Z),) int64, flat indices in ascending order of luck.

    Notes:
        Every voxel waits an exponential time whose rate is its weight; those that come first are
        drawn. This is weighted drawing without replacement (Efraimidis and Spirakis, 2006), and
        asks for no number to leave the device.
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
        features: (B, C, X, Y, Z), best in channels-last layout.
        positions: (n,) int64 flat indices into (X, Y, Z), the same for all of B, or (B, n); a voxel
            may be read several times.

    Returns:
        (B, n, C).

    Notes:
        In channels-last layout the features of a voxel lie side by side, and so does their
        gradient, which has the layout of ``features``. They are added in a fixed order then: on a
        CPU by ``index_select``; on other devices, where that uses atomics, by indexing with a
        tensor.
    """
    batch, channels = features.shape[:2]
    positions = positions.expand(batch, -1)
    if features.stride(1) != 1:
        return features.flatten(2).gather(2, positions[:, None].expand(-1, channels, -1)).transpose(1, 2)
    rows = features.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    index = positions + features[0, 0].numel() * torch.arange(batch, device=positions.device)[:, None]
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape) if rows.device.type == "cpu" else rows[index]


def unravel(flat: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Voxel indices (..., 3) of flat indices (...) into a volume of ``shape``."""
    _, y, z = shape
    return torch.stack(
        [flat.div(y * z, rounding_mode="floor"), flat.div(z, rounding_mode="floor") % y, flat % z], dim=-1
    )


def flat_index(voxels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Flat indices (...) of voxel indices (..., 3) into a volume of ``shape``."""
    _, y, z = shape
    return (voxels[..., 0] * y + voxels[..., 1]) * z + voxels[..., 2]
