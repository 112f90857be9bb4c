"""How well the features of two aligned images find each other: two numbers, from the features alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_ROWS = 500
"""Voxels ranked at a time; bounds the memory."""


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every pair of features, their channels centred over the given voxels.

    Args:
        first, second: (N, C) features of N voxels in two aligned images.

    Returns:
        (N, N) in [-1, 1]; row i is voxel i of the first image against all voxels of the second.
        Features that are the same everywhere have cosine 0.
    """

    def directions(features: Tensor) -> Tensor:
        return functional.normalize(features - features.mean(dim=0), dim=1)

    return directions(first) @ directions(second).T


def nearest_rate(cosines: Tensor, same: Tensor) -> float:
    """Share of voxels whose nearest neighbour in the other image's features lies at the same place.

    Args:
        cosines: (N, N), see :func:`similarity`.
        same: (N, N) bool, whether voxel i and voxel j count as the same place (one region, or near
            each other).

    Returns:
        In [0, 1]; by chance, ``same.float().mean()``.
    """
    return same.gather(1, cosines.argmax(dim=1, keepdim=True)).float().mean().item()


def separation(cosines: Tensor, same: Tensor) -> float:
    """How often a voxel is more similar to one at the same place than to one elsewhere.

    Take a voxel of the first image, and of the second image one voxel at the same place and one
    elsewhere: the probability that the former has the higher cosine, ties counting one half. It is
    the area under the ROC curve of each voxel's row, averaged over voxels: every voxel counts once,
    however large its region, and no scale or threshold of the cosines matters. Unlike
    :func:`nearest_rate`, which asks for the single best match, it uses all pairs.

    Args:
        cosines, same: As for :func:`nearest_rate`. Voxels without a voxel elsewhere don't count.

    Returns:
        In [0, 1]; 1/2 by chance.

    Raises:
        ValueError: If all places are the same, or if a voxel is nowhere (``same`` is false even for
            the voxel itself).
    """
    areas = torch.cat([_row_areas(c, s) for c, s in zip(cosines.split(_ROWS), same.split(_ROWS), strict=True)])
    areas = areas[~same.all(dim=1)]
    if not len(areas) or areas.isnan().any():
        raise ValueError("expected every voxel to be at the same place as itself, and some to be elsewhere")
    return areas.mean().item()


def _row_areas(cosines: Tensor, same: Tensor) -> Tensor:
    """(R,) areas under the ROC curve by the rank-sum formula; tied values share their mean rank."""
    rows, columns = cosines.shape
    # Set apart by more than their range, all sorted rows are one sorted list, in which only the few
    # voxels at the same place are sought.
    apart = 4.0 * torch.arange(rows, dtype=torch.float64, device=cosines.device)
    ordered = (cosines.sort(dim=1).values + apart[:, None]).flatten()
    row, column = same.nonzero(as_tuple=True)
    sought = cosines[row, column] + apart[row]
    ranks = (
        torch.searchsorted(ordered, sought) + torch.searchsorted(ordered, sought, right=True) + 1
    ).double() / 2 - columns * row
    positives = same.sum(dim=1).double()
    rank_sums = torch.zeros_like(positives).index_add_(0, row, ranks)
    return (rank_sums - positives * (positives + 1) / 2) / (positives * (columns - positives))
