"""Two measures of how well the features of two aligned images match."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_ROWS = 500
"""Number of voxels ranked at a time, which bounds the memory."""


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosine of every pair of features, after centring channels over the voxels.

    Args:
        first: (N, C) features of N voxels in one image.
        second: (N, C) features of the same voxels in the aligned image.

    Returns:
        (N, N) in [-1, 1]; row i compares voxel i of the first image with all voxels of the second.
        Constant features have cosine 0.
    """

    def directions(features: Tensor) -> Tensor:
        return functional.normalize(features - features.mean(dim=0), dim=1)

    return directions(first) @ directions(second).T


def nearest_rate(cosines: Tensor, same: Tensor) -> float:
    """Compute the share of voxels whose most similar voxel in the other image is a match.

    Args:
        cosines: (N, N) cosines, see :func:`similarity`.
        same: (N, N) bool, whether voxels i and j match (same region, or near each other).

    Returns:
        Rate in [0, 1]; by chance, ``same.float().mean()``.
    """
    return same.gather(1, cosines.argmax(dim=1, keepdim=True)).float().mean().item()


def separation(cosines: Tensor, same: Tensor) -> float:
    """Compute the probability that a matching voxel is more similar than one that does not match.

    Given a voxel of the first image, compare a matching and a non-matching voxel of the second: the
    probability that the former has the higher cosine, ties counting one half. It is the area under
    the ROC curve of each voxel's row, averaged over voxels. Every voxel counts once, whatever the
    size of its region, and the scale of the cosines does not matter. :func:`nearest_rate` uses only
    the best match; this measure uses all pairs.

    Args:
        cosines: (N, N) cosines, see :func:`similarity`.
        same: (N, N) bool, whether voxels i and j match. Voxels that match all others are ignored.

    Returns:
        Probability in [0, 1]; 1/2 by chance.

    Raises:
        ValueError: If all voxels match, or if a voxel matches none, not even itself.
    """
    areas = torch.cat([_row_areas(c, s) for c, s in zip(cosines.split(_ROWS), same.split(_ROWS), strict=True)])
    areas = areas[~same.all(dim=1)]
    if not len(areas) or areas.isnan().any():
        raise ValueError("expected every voxel to match itself, and some voxels not to match (to be elsewhere)")
    return areas.mean().item()


def _row_areas(cosines: Tensor, same: Tensor) -> Tensor:
    """Return (R,) areas under the ROC curve by the rank-sum formula; ties share their mean rank."""
    rows, columns = cosines.shape
    # Offset by more than their range, the sorted rows form one sorted list, in which only the few
    # matching voxels are searched.
    offsets = 4.0 * torch.arange(rows, dtype=torch.float64, device=cosines.device)
    ordered = (cosines.sort(dim=1).values + offsets[:, None]).flatten()
    row, column = same.nonzero(as_tuple=True)
    matches = cosines[row, column] + offsets[row]
    ranks = (
        torch.searchsorted(ordered, matches) + torch.searchsorted(ordered, matches, right=True) + 1
    ).double() / 2 - columns * row
    positives = same.sum(dim=1).double()
    rank_sums = torch.zeros_like(positives).index_add_(0, row, ranks)
    return (rank_sums - positives * (positives + 1) / 2) / (positives * (columns - positives))
