"""Sampling of the voxels that enter the loss, at every level of the network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

BlockLabel = Literal["centre", "corner"]
"""Voxel that gives a block its label: at the centre, or the first one as in the published code."""


def labels_at_level(labels: Tensor, level: int, block_label: BlockLabel = "centre") -> Tensor:
    """Subsample labels to a grid that was halved ``level`` times, one voxel per block.

    Args:
        labels: (X, Y, Z) integers.
        level: Number of halvings of the resolution; blocks have 2^level voxels per side.
        block_label: Voxel to take: ``centre`` for the one just after the block's middle, ``corner``
            for the first one, as in the published code.

    Returns:
        (X / 2^level, Y / 2^level, Z / 2^level), a view.

    Notes:
        The label taken fills .59/.50/.41 of its block at levels 2/3/4 with the centre, and
        .48/.33/.29 with the corner (balanced sampling).
    """
    step = 2**level
    start = step // 2 if block_label == "centre" else 0
    return labels[start::step, start::step, start::step]


def sample_positions(labels: Tensor, count: int, *, balanced_share: float, generator: Generator) -> Tensor:
    """Draw distinct voxels of a label map.

    Args:
        labels: (X, Y, Z) non-negative integers below 256.
        count: Number of voxels; all voxels if the grid has no more.
        balanced_share: Share of the sampling probability that is split evenly among labels, in
            [0, 1], so that small structures weigh as much as the background. The rest is split
            evenly among voxels. 0 is as in the published code.
        generator: Random generator on the device of ``labels``.

    Returns:
        (min(count, X·Y·Z),) int64 flat indices, ordered by random key.

    Notes:
        Weighted sampling without replacement (exponential keys; Efraimidis and Spirakis, 2006).
        Nothing is read back from the device.
    """
    flat = labels.flatten().long()
    keys = torch.empty(flat.shape, device=flat.device).exponential_(generator=generator)
    if balanced_share:
        # Not bincount: its output length would be read back from the device.
        sizes = torch.zeros(256, device=flat.device).index_add_(0, flat, torch.ones_like(keys))
        weights = balanced_share / ((sizes > 0).sum() * sizes.clamp_min(1)) + (1 - balanced_share) / len(flat)
        keys = keys / weights[flat]
    return keys.topk(min(count, len(flat)), largest=False).indices


def features_at(features: Tensor, positions: Tensor) -> Tensor:
    """Read the features of voxels.

    Args:
        features: (B, C, X, Y, Z), best in channels-last layout.
        positions: (n,) int64 flat indices into (X, Y, Z), the same for the whole batch, or (B, n);
            a voxel may be read several times.

    Returns:
        (B, n, C) features.

    Notes:
        In channels-last layout the features of a voxel are contiguous, and so are their gradients.
        Gradients are then added in a fixed order: on a CPU by ``index_select``; on other devices,
        where that uses atomics, by indexing with a tensor.
    """
    batch, channels = features.shape[:2]
    positions = positions.expand(batch, -1)
    if features.stride(1) != 1:
        return features.flatten(2).gather(2, positions[:, None].expand(-1, channels, -1)).transpose(1, 2)
    rows = features.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    index = positions + features[0, 0].numel() * torch.arange(batch, device=positions.device)[:, None]
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape) if rows.device.type == "cpu" else rows[index]


def unravel(flat: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Convert flat indices (...) into a volume of ``shape`` to voxel indices (..., 3)."""
    _, y, z = shape
    return torch.stack(
        [flat.div(y * z, rounding_mode="floor"), flat.div(z, rounding_mode="floor") % y, flat % z], dim=-1
    )


def flat_index(voxels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Convert voxel indices (..., 3) into a volume of ``shape`` to flat indices (...)."""
    _, y, z = shape
    return (voxels[..., 0] * y + voxels[..., 1]) * z + voxels[..., 2]
