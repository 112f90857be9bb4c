"""Local precision of features: the true location must be the most similar of its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

REACH_VOX, STEP_VOX = 4, 2
CANDIDATES = (2 * (REACH_VOX // STEP_VOX) + 1) ** 3
"""Number of locations compared with each anchor, 125; the rate by chance is 1 / 125."""
_BATCH = 256
"""Number of anchors compared at a time, which bounds the memory."""


def local_rate(first: Tensor, second: Tensor, places: Tensor, counterparts: Tensor) -> float:
    """Compute the share of anchors whose true location is the most similar one within 4 voxels.

    Args:
        first: (C, X, Y, Z) features of one scan.
        second: (C, x, y, z) features of the other scan, whose frame may differ.
        places: (n, 3) int64 voxel indices of the anchors in ``first``.
        counterparts: (n, 3) int64 corresponding voxel indices in ``second``.

    Returns:
        Rate in [0, 1]; by chance 1 / 125.

    Notes:
        Channels are standardized over the anchors, separately for each scan, and compared by their
        mean squared difference, as in registration. Candidates are a grid of 5×5×5 locations, 2
        voxels apart; those outside the scan are ignored.
    """
    steps = torch.arange(-REACH_VOX, REACH_VOX + 1, STEP_VOX)
    offsets = torch.cartesian_prod(steps, steps, steps)
    truth = len(offsets) // 2
    anchors = gather_features(first, places)
    mean, scale = _mean_and_scale(anchors)
    anchors = (anchors - mean) * scale
    other_mean, other_scale = _mean_and_scale(gather_features(second, counterparts))
    last = torch.tensor(second.shape[1:]) - 1
    correct = 0
    for batch, centres in zip(anchors.split(_BATCH), counterparts.split(_BATCH), strict=True):
        around = centres[:, None] + offsets
        inside = ((around >= 0) & (around <= last)).all(dim=-1)
        candidates = (gather_features(second, around.clamp(min=0).minimum(last)) - other_mean) * other_scale
        distances = (batch[:, None] - candidates).square().mean(dim=-1)
        distances = distances.masked_fill(~inside.to(distances.device), torch.inf)
        correct += int((distances.argmin(dim=1) == truth).sum())
    return correct / len(places)


def gather_features(features: Tensor, places: Tensor) -> Tensor:
    """Gather (..., C) float32 from (C, X, Y, Z) features at voxel indices (..., 3)."""
    x, y, z = places.to(features.device).unbind(-1)
    return features[:, x, y, z].movedim(0, -1).float()


def _mean_and_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and the factor to unit variance, 0 for a constant channel."""
    std, mean = torch.std_mean(rows, dim=0)
    return mean, torch.where(std > 0, std.clamp_min(torch.finfo(std.dtype).tiny).reciprocal(), 0)
