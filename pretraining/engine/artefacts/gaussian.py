"""Separable Gaussian convolution, shared by smoothing, sharpening and blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from pretraining.engine.upload import upload

TRUNCATION = 4.0
"""Half width of a kernel, standard deviations: the value of MONAI and of SciPy."""


def integrated_kernel(sigma_vox: float) -> list[float]:
    """The Gaussian's integral over each voxel, out to 4 sigma; sums to nearly 1 (MONAI's kernel). Sigma 0 gives the identity."""
    half = int(max(sigma_vox * TRUNCATION, 0.5) + 0.5)
    if sigma_vox == 0:
        return [float(x == 0) for x in range(-half, half + 1)]
    edges = [math.erf((x - 0.5) / (sigma_vox * math.sqrt(2))) for x in range(-half, half + 2)]
    return [(right - left) / 2 for left, right in pairwise(edges)]


def sampled_kernel(sigma_vox: float) -> list[float]:
    """The Gaussian at each voxel's centre, out to 4 sigma, made to sum to 1 (SciPy's kernel). Sigma 0 gives the identity."""
    half = int(TRUNCATION * sigma_vox + 0.5)
    values = [math.exp(-0.5 * (x / sigma_vox) ** 2) if x else 1.0 for x in range(-half, half + 1)]
    return [value / sum(values) for value in values]


def convolve_zero(volume: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve (X, Y, Z) with one symmetric kernel per axis; outside is 0."""
    for axis, kernel in enumerate(kernels):
        half, size = len(kernel) // 2, volume.shape[axis]
        result = volume * kernel[half]
        for shift in range(1, min(half, size - 1) + 1):
            overlap = size - shift
            result.narrow(axis, shift, overlap).add_(volume.narrow(axis, 0, overlap), alpha=kernel[half + shift])
            result.narrow(axis, 0, overlap).add_(volume.narrow(axis, shift, overlap), alpha=kernel[half + shift])
        volume = result
    return volume


def convolve_mirrored(volume: Tensor, kernels: Sequence[list[float]]) -> Tensor:
    """Convolve (X, Y, Z) with one symmetric kernel per axis; outside is the mirror image, the edge voxel repeated."""
    for axis, kernel in enumerate(kernels):
        half, size = len(kernel) // 2, volume.shape[axis]
        if half == 0:
            continue
        turn = np.arange(-half, size + half) % (2 * size)
        extended = volume.index_select(axis, upload(np.minimum(turn, 2 * size - 1 - turn), volume.device))
        result = extended.narrow(axis, half, size) * kernel[half]
        for shift in range(1, half + 1):
            both = extended.narrow(axis, half - shift, size) + extended.narrow(axis, half + shift, size)
            result.add_(both, alpha=kernel[half + shift])
        volume = result
    return volume
