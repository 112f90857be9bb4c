"""Smooth random fields, for warps and for texture (Perlin noise in the paper's terms)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pretraining.common.random import noise_generator, noise_seed, uniforms
from pretraining.common.triple import triple
from pretraining.engine.execution import upload

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class SmoothNoise:
    """Random parameters of one smooth field."""

    scales_vox: tuple[float, ...]
    """Spacing of each coarse grid, voxels."""
    stds: tuple[float, ...]
    """Standard deviation at the nodes of each coarse grid, in the field's own unit."""
    noise_seed: int
    """Seed of the values at the nodes."""


def sample_smooth_noise(
    scales_vox: Sequence[float], min_std: float, max_std: float, generator: Generator
) -> SmoothNoise:
    """Draw each scale's std from U[min_std, max_std] and the seed of the node values."""
    stds = uniforms(len(scales_vox), min_std, max_std, generator)
    return SmoothNoise(scales_vox=tuple(scales_vox), stds=tuple(stds), noise_seed=noise_seed(generator))


def smooth_noise(shape: Shape, params: SmoothNoise, *, channels: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Sum Gaussian noise on coarse grids, each upsampled linearly to ``shape``.

    Args:
        shape: (X, Y, Z), voxels.
        params: Parameters from :func:`sample_smooth_noise`.
        channels: Number C of independent fields that share their stds, such as the components of a
            displacement.
        device: Device that computes the field.

    Returns:
        (C, X, Y, Z) float32, zero mean, unbounded.

    References:
        Hoffmann et al., SynthMorph, TMI 2022, arXiv:2004.10282 (there called Perlin noise).

    Notes:
        On a CPU, linear upsampling is a product with one small matrix per axis. The last axis is
        upsampled for all scales in one product, which also sums them, so that only the result has
        full size. On other devices, products would depend on the precision that training allows
        (TF32), so PyTorch's interpolation is used, with one kernel per scale.
    """
    if torch.device(device).type != "cpu":
        return smooth_noises(shape, [params], channels=channels, device=device)[0]
    generator = noise_generator(params.noise_seed, device)
    coarse = [
        torch.randn((channels, *nodes), generator=generator, device=device) * std
        for nodes, std in zip(_node_counts(shape, params), params.stds, strict=True)
    ]
    return _sum_upsampled(coarse, shape)


def smooth_noises(
    shape: Shape, params: Sequence[SmoothNoise], *, channels: int = 1, device: torch.device | str
) -> Tensor:
    """Compute several smooth fields on an accelerator with few kernels.

    Args:
        shape: (X, Y, Z), voxels.
        params: Parameters of each field, all with the same scales.
        channels: Number C of independent fields that share their stds.
        device: Device that computes the fields, not a CPU.

    Returns:
        (fields, C, X, Y, Z) float32.

    Notes:
        The nodes of all scales are drawn and scaled together.
    """
    counts = _node_counts(shape, params[0])
    sizes = [channels * math.prod(nodes) for nodes in counts]
    nodes = torch.empty((len(params), sum(sizes)), device=device)
    for row, each in zip(nodes, params, strict=True):
        torch.randn(row.shape, generator=noise_generator(each.noise_seed, device), device=device, out=row)
    nodes.mul_(upload(np.repeat(np.array([each.stds for each in params], dtype=np.float32), sizes, axis=1), device))
    upsampled = (
        F.interpolate(coarse.unflatten(1, (channels, *count)), shape, mode="trilinear", align_corners=True)
        for coarse, count in zip(nodes.split(sizes, dim=1), counts, strict=True)
    )
    total = next(upsampled)
    for fine in upsampled:
        total.add_(fine)
    return total


def _node_counts(shape: Shape, params: SmoothNoise) -> list[Shape]:
    """Return the number of nodes along each axis of each coarse grid."""
    return [triple(math.ceil(size / scale) for size in shape) for scale in params.scales_vox]


def _sum_upsampled(coarse: Sequence[Tensor], shape: Shape) -> Tensor:
    """Sum grids (C, ., ., .), each upsampled linearly to (C, X, Y, Z)."""
    partial, last = [], []
    for grid in coarse:
        along_x, along_y, along_z = (_linear_upsampling(n, size) for n, size in zip(grid.shape[1:], shape, strict=True))
        grid = (along_x @ grid.flatten(2)).unflatten(2, grid.shape[2:])
        partial.append(along_y @ grid)
        last.append(along_z)
    return torch.cat(partial, dim=-1) @ torch.cat(last, dim=1).T


@lru_cache(maxsize=256)
def _linear_upsampling(nodes: int, size: int) -> Tensor:
    """Return the (size, nodes) matrix of linear interpolation from ``nodes`` values to ``size``.

    The first and the last node are at the ends.
    """
    position = torch.linspace(0, nodes - 1, size, dtype=torch.float64)
    weights = 1 - (position[:, None] - torch.arange(nodes, dtype=torch.float64)).abs()
    return weights.clamp_min(0).float()
