"""Data term of the local stage: squared difference of descriptors and its gradient (App. B.4).

On a CPU, one compiled loop reads the channels of every voxel once and stores no intermediates; on
other devices, PyTorch's kernels do the same in chunks of channels. In both cases the memory besides
the descriptors is that of a few displacements.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.convex import Beyond
from pretraining.imaging.interpolation import interpolate_at

_CHANNEL_CHUNK = 8


class Dissimilarity:
    """Squared difference of descriptors, summed over channels and averaged over voxels.

    Args:
        fixed: (C, X, Y, Z) float32 fixed descriptors.
        moving: (C, X, Y, Z) float32 moving descriptors on the same grid.
        fixed_weight: (X, Y, Z) in [0, 1], weight of each fixed voxel. Default: 1.
        moving_weight: (X, Y, Z) in [0, 1], weight of each moving voxel, sampled where the
            descriptors are, 0 beyond the grid. Default: 1 everywhere. Where a weight is 0,
            difference and gradient are 0.
        voxels: Number of voxels that the sum is divided by. Default: the sum of ``fixed_weight``.
        beyond: Values beyond the moving grid: ``border`` repeats its border, ``zeros`` is as in the
            convexadam package.
    """

    def __init__(
        self,
        fixed: Tensor,
        moving: Tensor,
        fixed_weight: Tensor | None = None,
        moving_weight: Tensor | None = None,
        *,
        voxels: float | None = None,
        beyond: Beyond = "border",
    ) -> None:
        self.shape = tuple(fixed.shape[1:])
        self.device = fixed.device
        self._fixed_weight = (
            torch.ones(self.shape, device=self.device) if fixed_weight is None else fixed_weight.float()
        )
        self._moving_weight = None if moving_weight is None else moving_weight.float()
        self._scale = 1 / max(1.0, self._fixed_weight.sum().item() if voxels is None else voxels)
        # With a margin of zeros, positions beyond the grid are clamped to zeros.
        self._margin = 1 if beyond == "zeros" else 0
        if self._margin:
            moving = functional.pad(moving, (self._margin,) * 6)
        if self.device.type == "cpu":
            # Channels last: the loop reads the channels of a voxel in a row. This copies nothing if
            # they already are.
            fixed, moving = (descriptors.movedim(0, -1).contiguous() for descriptors in (fixed, moving))
        self._fixed, self._moving = fixed, moving

    def gradient(self, position: Tensor) -> tuple[float, Tensor]:
        """Compute the dissimilarity and its derivative with respect to each position.

        Args:
            position: (3, X, Y, Z), voxels of the moving grid.

        Returns:
            The dissimilarity, and its (3, X, Y, Z) derivative, per voxel.
        """
        weight = self._fixed_weight * self._scale
        if self.device.type == "cpu":
            return self._on_host(position + self._margin, weight)
        if self._moving_weight is not None:
            weight = weight * interpolate_at(self._moving_weight[None], position)[0]
        return self._on_device(position + self._margin, weight)

    def _on_host(self, position: Tensor, weight: Tensor) -> tuple[float, Tensor]:
        gradient = torch.empty_like(position)
        voxels, channels = weight.numel(), self._fixed.shape[-1]
        arrays = (
            self._fixed.view(-1, channels).numpy(),
            self._moving.view(-1, channels).numpy(),
            position.reshape(3, -1).numpy(),
            weight.reshape(-1).numpy(),
            (self._moving_weight if self._moving_weight is not None else weight.new_empty(0, 0, 0)).numpy(),
            self._margin,
            gradient.view(3, -1).numpy(),
        )
        threads = torch.get_num_threads()
        bounds = [voxels * part // threads for part in range(threads + 1)]
        parts = _pool(threads, os.getpid()).map(
            lambda part: _descend(*arrays, *self._moving.shape[:3], bounds[part], bounds[part + 1]),
            range(threads),
        )
        return sum(parts), gradient

    def _on_device(self, position: Tensor, weight: Tensor) -> tuple[float, Tensor]:
        position = position.detach().requires_grad_()
        total = position.new_zeros(())
        with torch.enable_grad():
            for fixed, moving in zip(
                self._fixed.split(_CHANNEL_CHUNK), self._moving.split(_CHANNEL_CHUNK), strict=True
            ):
                squared = (interpolate_at(moving, position, beyond="border") - fixed).square().sum(0)
                difference = (squared * weight).sum()
                difference.backward()
                total += difference.detach()
        gradient = torch.zeros_like(position) if position.grad is None else position.grad
        return total.item(), gradient


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads that all data terms of a process share; a fork starts its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"dissimilarity-{process}")


def _weight_at_loop(weight, x, y, z):
    """Interpolate the weight of the moving scan, 0 beyond its grid."""
    x0, y0, z0 = math.floor(x), math.floor(y), math.floor(z)
    total = np.float32(0)
    for i in range(2):
        for j in range(2):
            for k in range(2):
                a, b, c = x0 + i, y0 + j, z0 + k
                if 0 <= a < weight.shape[0] and 0 <= b < weight.shape[1] and 0 <= c < weight.shape[2]:
                    total += (1 - abs(x - a)) * (1 - abs(y - b)) * (1 - abs(z - c)) * weight[a, b, c]
    return total


def _descend_loop(
    fixed, moving, position, weight, moving_weight, margin, gradient, x_side, y_side, z_side, first, last
):
    """Interpolate values and their derivatives in one pass."""
    channels = fixed.shape[1]
    total = 0.0
    for voxel in range(first, last):
        x, y, z = position[0, voxel], position[1, voxel], position[2, voxel]
        share = weight[voxel]
        if moving_weight.size > 0 and share > 0:
            share *= _weight_at(moving_weight, x - margin, y - margin, z - margin)
        if share == 0:
            gradient[0, voxel] = gradient[1, voxel] = gradient[2, voxel] = 0
            continue
        # Where a coordinate is clamped, the derivative along that axis is 0.
        inside_x = np.float32(0 <= x <= x_side - 1)
        inside_y = np.float32(0 <= y <= y_side - 1)
        inside_z = np.float32(0 <= z <= z_side - 1)
        x = min(max(x, np.float32(0)), np.float32(x_side - 1))
        y = min(max(y, np.float32(0)), np.float32(y_side - 1))
        z = min(max(z, np.float32(0)), np.float32(z_side - 1))
        x0, y0, z0 = math.floor(x), math.floor(y), math.floor(z)
        x1, y1, z1 = min(x0 + 1, x_side - 1), min(y0 + 1, y_side - 1), min(z0 + 1, z_side - 1)
        fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
        here = fixed[voxel]
        m000, m001 = moving[(x0 * y_side + y0) * z_side + z0], moving[(x0 * y_side + y0) * z_side + z1]
        m010, m011 = moving[(x0 * y_side + y1) * z_side + z0], moving[(x0 * y_side + y1) * z_side + z1]
        m100, m101 = moving[(x1 * y_side + y0) * z_side + z0], moving[(x1 * y_side + y0) * z_side + z1]
        m110, m111 = moving[(x1 * y_side + y1) * z_side + z0], moving[(x1 * y_side + y1) * z_side + z1]
        squared = along_x = along_y = along_z = np.float32(0)
        for c in range(channels):
            dz00, dz01, dz10, dz11 = m001[c] - m000[c], m011[c] - m010[c], m101[c] - m100[c], m111[c] - m110[c]
            v00, v01, v10, v11 = m000[c] + fz * dz00, m010[c] + fz * dz01, m100[c] + fz * dz10, m110[c] + fz * dz11
            dy0, dy1 = v01 - v00, v11 - v10
            v0, v1 = v00 + fy * dy0, v10 + fy * dy1
            difference = v0 + fx * (v1 - v0) - here[c]
            squared += difference * difference
            along_x += difference * (v1 - v0)
            along_y += difference * (dy0 + fx * (dy1 - dy0))
            dz0, dz1 = dz00 + fy * (dz01 - dz00), dz10 + fy * (dz11 - dz10)
            along_z += difference * (dz0 + fx * (dz1 - dz0))
        total += share * squared
        gradient[0, voxel] = 2 * share * inside_x * along_x
        gradient[1, voxel] = 2 * share * inside_y * along_y
        gradient[2, voxel] = 2 * share * inside_z * along_z
    return total


# Allow sums over channels to be reordered; otherwise the compiler cannot vectorize them.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
_weight_at = numba.njit(_weight_at_loop, **_OPTIONS)
_descend: Callable[..., float]
try:
    _descend = numba.njit(_descend_loop, cache=True, **_OPTIONS)
except RuntimeError:  # no folder to cache in
    _descend = numba.njit(_descend_loop, **_OPTIONS)
