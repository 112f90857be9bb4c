"""Separable Gaussian convolution, shared by smoothing, sharpening and blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pretraining.common.triton_support import can_run_triton, launch
from pretraining.engine.execution import upload

TRUNCATION = 4.0
"""Half width of a kernel, standard deviations (the value of MONAI and SciPy)."""
_BLOCK = 512
"""Elements per Triton program."""


def integrated_kernel(sigma_vox: float) -> list[float]:
    """Return the Gaussian's integral over each voxel, truncated at 4 sigma (MONAI's kernel).

    The sum is slightly below 1. A sigma of 0 gives the identity.
    """
    half = int(max(sigma_vox * TRUNCATION, 0.5) + 0.5)
    if sigma_vox == 0:
        return [float(x == 0) for x in range(-half, half + 1)]
    edges = [math.erf((x - 0.5) / (sigma_vox * math.sqrt(2))) for x in range(-half, half + 2)]
    return [(right - left) / 2 for left, right in pairwise(edges)]


def sampled_kernel(sigma_vox: float) -> list[float]:
    """Return the Gaussian at each voxel's centre, truncated at 4 sigma (SciPy's kernel).

    The sum is 1. A sigma of 0 gives the identity.
    """
    half = int(TRUNCATION * sigma_vox + 0.5)
    values = [math.exp(-0.5 * (x / sigma_vox) ** 2) if x else 1.0 for x in range(-half, half + 1)]
    return [value / sum(values) for value in values]


def convolve_zero(volume: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve (X, Y, Z) with one symmetric kernel per axis; 0 outside."""
    if can_run_triton(volume.device):
        return _convolve_in_launches(volume, kernels, mirrored=False)
    for axis, kernel in enumerate(kernels):
        volume = _convolve(volume, kernel, axis)
    return volume


def convolve_mirrored(volume: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve (X, Y, Z) with one symmetric kernel per axis, mirrored at the borders.

    The edge voxel is repeated.
    """
    if can_run_triton(volume.device):
        return _convolve_in_launches(volume, kernels, mirrored=True)
    for axis, kernel in enumerate(kernels):
        half, size = len(kernel) // 2, volume.shape[axis]
        result = _convolve(volume, kernel, axis)
        # Voxels outside the volume within the kernel's reach, the nearest first.
        outside = np.arange(size, size + half) % (2 * size)
        after = volume.index_select(axis, upload(np.minimum(outside, 2 * size - 1 - outside), volume.device))
        before = volume.flip(axis).index_select(
            axis, upload(np.minimum(outside, 2 * size - 1 - outside), volume.device)
        )
        for shift in range(1, half + 1):
            count = min(shift, size)
            first, last = result.narrow(axis, 0, count), result.narrow(axis, size - count, count)
            first.add_(before.narrow(axis, shift - count, count).flip(axis), alpha=kernel[half + shift])
            last.add_(after.narrow(axis, shift - count, count), alpha=kernel[half + shift])
        volume = result
    return volume


def _convolve_in_launches(volume: Tensor, kernels: Sequence[list[float]], *, mirrored: bool) -> Tensor:
    """Convolve with one Triton launch per axis, and one upload of the halves of all kernels."""
    from pretraining.engine import gaussian_kernel

    halves = [len(kernel) // 2 for kernel in kernels]
    weights = np.concatenate([kernel[half:] for kernel, half in zip(kernels, halves, strict=True)]).astype(np.float32)
    weights_of_axis = upload(weights, volume.device).split([half + 1 for half in halves])
    volume = volume.contiguous()
    count, grid = volume.numel(), (-(-volume.numel() // _BLOCK),)
    for size, stride, half, weights in zip(volume.shape, volume.stride(), halves, weights_of_axis, strict=True):
        source, volume = volume, torch.empty_like(volume)
        launch(
            gaussian_kernel.convolve,
            grid,
            source,
            volume,
            weights,
            half,
            count,
            size,
            stride,
            int(mirrored),
            block=_BLOCK,
        )
    return volume


def _convolve(volume: Tensor, kernel: list[float], axis: int) -> Tensor:
    """Convolve along one axis; 0 outside."""
    half, size = len(kernel) // 2, volume.shape[axis]
    result = volume * kernel[half]
    for shift in range(1, min(half, size - 1) + 1):
        overlap = size - shift
        result.narrow(axis, shift, overlap).add_(volume.narrow(axis, 0, overlap), alpha=kernel[half + shift])
        result.narrow(axis, 0, overlap).add_(volume.narrow(axis, shift, overlap), alpha=kernel[half + shift])
    return result
