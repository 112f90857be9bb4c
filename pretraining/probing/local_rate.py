"""How exactly features tell where they are: is the true place the most similar one among its neighbours?"""

from __future__ import annotations

import torch
from torch import Tensor

REACH_VOX, STEP_VOX = 4, 2
CANDIDATES = (2 * (REACH_VOX // STEP_VOX) + 1) ** 3
"""Places compared with each anchor, 125; chance finds 1 of as many."""
_AT_ONCE = 256
"""Anchors compared at a time; bounds the memory."""


def local_rate(first: Tensor, second: Tensor, places: Tensor, counterparts: Tensor) -> float:
    """Share of anchors whose true place in the other scan is the most similar of the places within 4 voxels of it.

    Args:
        first: (C, X, Y, Z) features of one scan.
        second: (C, x, y, z) features of the other, whose frame may differ.
        places: (n, 3) int64 voxel indices of the anchors in ``first``.
        counterparts: (n, 3) int64 voxel indices of the same places in ``second``.

    Returns:
        In [0, 1]; by chance 1 / 125.

    Notes:
        Channels are standardized over the anchors, in each scan by itself, and compared by their
        mean squared difference, as registration does. Candidates are a grid of 5×5×5 places, 2
        voxels apart. Those beyond the border do not count.
    """
    steps = torch.arange(-REACH_VOX, REACH_VOX + 1, STEP_VOX)
    offsets = torch.cartesian_prod(steps, steps, steps)
    truth = len(offsets) // 2
    anchors = features_of(first, places)
    mean, scale = _mean_and_scale(anchors)
    anchors = (anchors - mean) * scale
    other_mean, other_scale = _mean_and_scale(features_of(second, counterparts))
    last = torch.tensor(second.shape[1:]) - 1
    found = 0
    for some, at in zip(anchors.split(_AT_ONCE), counterparts.split(_AT_ONCE), strict=True):
        around = at[:, None] + offsets
        inside = ((around >= 0) & (around <= last)).all(dim=-1)
        candidates = (features_of(second, around.clamp(min=0).minimum(last)) - other_mean) * other_scale
        distances = (some[:, None] - candidates).square().mean(dim=-1)
        distances = distances.masked_fill(~inside.to(distances.device), torch.inf)
        found += int((distances.argmin(dim=1) == truth).sum())
    return found / len(places)


def features_of(features: Tensor, places: Tensor) -> Tensor:
    """(..., C) float32 of (C, X, Y, Z) at voxel indices (..., 3)."""
    x, y, z = places.to(features.device).unbind(-1)
    return features[:, x, y, z].movedim(0, -1).float()


def _mean_and_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel over the rows, and the factor that gives it unit variance; 0 for a constant one."""
    std, mean = torch.std_mean(rows, dim=0)
    return mean, torch.where(std > 0, std.clamp_min(torch.finfo(std.dtype).tiny).reciprocal(), 0)
