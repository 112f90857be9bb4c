"""Affine resampling of whole volumes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.engine.upload import upload


def coordinates(matrix: np.ndarray, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Input voxel coordinates of each output voxel: three (X, Y, Z) float32, from a (3, 4) map of output to input index."""
    tables = [matrix[:, axis, None] * np.arange(size) for axis, size in enumerate(shape)]
    tables[0] = tables[0] + matrix[:, 3, None]
    along_x, along_y, along_z = upload(np.concatenate(tables, axis=1).astype(np.float32), device).split(list(shape), dim=1)
    return [(along_x[axis, :, None] + along_y[axis])[..., None] + along_z[axis] for axis in range(3)]


def resample_linear(volumes: Tensor, matrix: np.ndarray) -> Tensor:
    """Map (C, X, Y, Z) float32 by trilinear interpolation; outside is each volume's least value.

    Notes
    -----
    As in ITK, a volume reaches half a voxel beyond its outermost voxel centres, and is constant there.
    """
    shape = tuple(volumes.shape[1:])
    where = coordinates(matrix, shape, volumes.device)
    outside = _outside(where, shape)
    grid = torch.stack([position * (2 / max(size - 1, 1)) - 1 for position, size in zip(where, shape, strict=True)][::-1], dim=-1)
    mapped = F.grid_sample(volumes[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
    return torch.where(outside, volumes.amin(dim=(1, 2, 3), keepdim=True), mapped)


def resample_labels(labels: Tensor, matrix: np.ndarray) -> Tensor:
    """Map (X, Y, Z) labels by nearest lookup; outside is 0."""
    shape = tuple(labels.shape)
    where = coordinates(matrix, shape, labels.device)
    flat = None
    for position, size in zip(where, shape, strict=True):
        index = position.round().clamp_(0, size - 1).int()
        flat = index if flat is None else flat.mul_(size).add_(index)
    return labels.flatten().index_select(0, flat.flatten()).view(shape).masked_fill_(_outside(where, shape), 0)


def _outside(where: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    outside = None
    for position, size in zip(where, shape, strict=True):
        here = (position - (size - 1) / 2).abs_() > size / 2
        outside = here if outside is None else outside.logical_or_(here)
    return outside
