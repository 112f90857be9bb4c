"""3×3×3 convolution at selected voxels, as a product of their neighbourhoods with the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 27
"""Voxels read per position; the dense convolution is cheaper for more than one voxel in so many."""


def convolution_at(
    x: Tensor, positions: Tensor, weight: Tensor, bias: Tensor | None, *, padding: Literal["reflect", "zeros"]
) -> Tensor:
    """Evaluate a convolution that preserves the grid, at selected voxels.

    Args:
        x: (B, C, X, Y, Z), preferably channels-last; other layouts are copied.
        positions: (n,) int64 flat indices into (X, Y, Z), shared by the batch, or (B, n).
        weight: (O, C, 3, 3, 3).
        bias: (O,) or None.
        padding: Values beyond the border: mirrored or zeros.

    Returns:
        (B, n, O), equal to the dense convolution at ``positions`` except for the order of
        rounding.

    Notes:
        Reads and stores 27 C values per position (see :data:`NEIGHBOURS`). The backward pass sums
        in a fixed order on every device.
    """
    batch, channels, *shape = x.shape
    per_volume = positions if positions.ndim == 2 else positions.expand(batch, -1)
    index, inside = _neighbours(per_volume, shape)
    index = index + x[0, 0].numel() * torch.arange(batch, device=x.device)[:, None, None]
    # Tensor indexing sorts in the backward pass, which is deterministic; index_select uses atomics.
    rows = x.permute(0, 2, 3, 4, 1).reshape(-1, channels)[index]
    if padding == "zeros":
        rows = rows * inside[..., None]
    return functional.linear(rows.flatten(2), weight.permute(0, 2, 3, 4, 1).flatten(1), bias)


def _neighbours(positions: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the (..., 27) flat indices around each position, mirrored at the border.

    Returns:
        Indices, and a mask of those that needed no mirroring.
    """
    index = torch.zeros_like(positions)[..., None]
    inside = torch.ones_like(index, dtype=torch.bool)
    steps = torch.arange(-1, 2, device=positions.device)
    coordinates = torch.unravel_index(positions, tuple(shape))
    for coordinate, side in zip(coordinates, shape, strict=True):
        neighbour = coordinate[..., None] + steps
        within = (neighbour >= 0) & (neighbour < side)
        mirrored = neighbour.abs()
        mirrored = torch.where(mirrored < side, mirrored, 2 * (side - 1) - mirrored).clamp_min(0)
        index = (index[..., None] * side + mirrored[..., None, :]).flatten(-2)
        inside = (inside[..., None] & within[..., None, :]).flatten(-2)
    return index, inside
