"""Affine resampling of volumes: trilinear for intensities, nearest neighbour for labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pretraining.common.triple import triple
from pretraining.common.triton_support import can_run_triton, launch
from pretraining.engine.execution import compile_loop, upload
from pretraining.imaging.interpolation import interpolate_at

_BLOCK = 256
"""Voxels per Triton program."""


def resample_linear(volumes: Tensor, matrix: np.ndarray, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Resample volumes by trilinear interpolation.

    Args:
        volumes: (C, X, Y, Z) float32.
        matrix: (3, 4), from output voxel index to input voxel index.
        shape: (x, y, z) of the output, voxels. Default: that of the input.

    Returns:
        (C, x, y, z) float32; outside the input, each volume's minimum.

    Notes:
        As in ITK, a volume extends half a voxel beyond its outermost voxel centres, and is constant
        there. A CPU runs a compiled loop and a GPU one Triton kernel, which are faster than
        :func:`pretraining.imaging.interpolation.interpolate_at`. The order of operations in the
        loop must not change, or a seed would give other samples.
    """
    input_shape = triple(volumes.shape[1:])
    shape = shape or input_shape
    if volumes.device.type == "cpu":
        mapped = torch.empty((len(volumes), *shape), dtype=volumes.dtype)
        least = volumes.amin(dim=(1, 2, 3)).numpy()
        _resample_linear_on_host(volumes.contiguous().numpy(), mapped.numpy(), least, *_contributions(matrix, shape))
        return mapped
    if can_run_triton(volumes.device):
        return _resample_linear_in_one_launch(volumes, matrix, shape)
    coordinates = _coordinates(matrix, shape, volumes.device)
    outside = _outside(coordinates, input_shape)
    mapped = interpolate_at(volumes, coordinates, beyond="border")
    return torch.where(outside, volumes.amin(dim=(1, 2, 3), keepdim=True), mapped)


def resample_labels(labels: Tensor, matrix: np.ndarray) -> Tensor:
    """Resample (X, Y, Z) labels to the nearest voxel; 0 outside.

    Args:
        labels: (X, Y, Z), any integer type.
        matrix: (3, 4), from output voxel index to input voxel index.
    """
    shape = tuple(labels.shape)
    if labels.device.type == "cpu":
        mapped = torch.zeros(shape, dtype=labels.dtype)
        _resample_labels_on_host(labels.contiguous().numpy(), mapped.numpy(), *_contributions(matrix, shape))
        return mapped
    if can_run_triton(labels.device) and labels.dtype == torch.uint8:
        return _resample_labels_in_one_launch(labels, matrix)
    coordinates = _coordinates(matrix, shape, labels.device)
    nearest = (position.round().clamp_(0, size - 1).int() for position, size in zip(coordinates, shape, strict=True))
    flat = next(nearest)
    for index, size in zip(nearest, shape[1:], strict=True):
        flat.mul_(size).add_(index)
    return labels.flatten().index_select(0, flat.flatten()).view(shape).masked_fill_(_outside(coordinates, shape), 0)


def _contributions(matrix: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the contribution of each output index along each axis to the three input coordinates.

    They are (3, X), (3, Y) and (3, Z) float32; their sum is the input coordinate of a voxel.
    """
    tables = [matrix[:, axis, None] * np.arange(size) for axis, size in enumerate(shape)]
    tables[0] = tables[0] + matrix[:, 3, None]
    return [table.astype(np.float32) for table in tables]


def _resample_linear_in_one_launch(volumes: Tensor, matrix: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    from pretraining.engine import resample_kernel

    volumes = volumes.contiguous()
    mapped = volumes.new_empty((len(volumes), *shape))
    tables = _upload_contributions(matrix, shape, volumes.device)
    grid = (-(-mapped[0].numel() // _BLOCK), len(volumes))
    least = volumes.amin(dim=(1, 2, 3))
    launch(resample_kernel.linear, grid, volumes, mapped, least, tables, *volumes.shape[1:], *shape, block=_BLOCK)
    return mapped


def _resample_labels_in_one_launch(labels: Tensor, matrix: np.ndarray) -> Tensor:
    from pretraining.engine import resample_kernel

    labels = labels.contiguous()
    mapped = torch.empty_like(labels)
    tables = _upload_contributions(matrix, tuple(labels.shape), labels.device)
    launch(
        resample_kernel.nearest,
        (-(-labels.numel() // _BLOCK),),
        labels,
        mapped,
        tables,
        *labels.shape,
        *labels.shape,
        block=_BLOCK,
    )
    return mapped


def _upload_contributions(matrix: np.ndarray, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the contributions of all axes on ``device``, (3, X + Y + Z) float32."""
    return upload(np.concatenate(_contributions(matrix, shape), axis=1), device)


def _coordinates(matrix: np.ndarray, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Return the three input coordinates of each output voxel, each (X, Y, Z) float32."""
    along_x, along_y, along_z = _upload_contributions(matrix, shape, device).split(list(shape), dim=1)
    return [(along_x[axis, :, None] + along_y[axis])[..., None] + along_z[axis] for axis in range(3)]


def _outside(coordinates: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    per_axis = (
        (position - (size - 1) / 2).abs_() > size / 2 for position, size in zip(coordinates, shape, strict=True)
    )
    outside = next(per_axis)
    for outside_axis in per_axis:
        outside.logical_or_(outside_axis)
    return outside


@compile_loop
def _resample_linear_on_host(volumes, mapped, least, along_x, along_y, along_z):
    """Interpolate row by row: one loop computes the coordinates, another one looks the values up.

    Neither has branches, so that both are vectorized.
    """
    channels, nx, ny, nz = volumes.shape
    # One more voxel per axis: the inner loop needs no test for borders, and strides are not powers
    # of two, which caches handle badly.
    padded = np.empty((channels, nx + 1, ny + 1, nz + 1), np.float32)
    for c in range(channels):
        for x in range(nx + 1):
            for y in range(ny + 1):
                padded[c, x, y, :nz] = volumes[c, min(x, nx - 1), min(y, ny - 1)]
                padded[c, x, y, nz] = volumes[c, min(x, nx - 1), min(y, ny - 1), nz - 1]
    flat = padded.reshape(channels, -1)
    # Unsigned, so that Numba does not test for negative indices.
    one, up_y, up_x = np.uint32(1), np.uint32(nz + 1), np.uint32((ny + 1) * (nz + 1))
    zero, half = np.float32(0), np.float32(0.5)
    last_x, last_y, last_z = np.float32(nx - 1), np.float32(ny - 1), np.float32(nz - 1)
    _, out_x, out_y, out_z = mapped.shape
    corner, inside = np.empty(out_z, np.uint32), np.empty(out_z, np.bool_)
    part_x, part_y, part_z = np.empty(out_z, np.float32), np.empty(out_z, np.float32), np.empty(out_z, np.float32)
    for x in range(out_x):
        for y in range(out_y):
            row_x, row_y, row_z = (
                along_x[0, x] + along_y[0, y],
                along_x[1, x] + along_y[1, y],
                along_x[2, x] + along_y[2, y],
            )
            for z in range(out_z):
                free_x, free_y, free_z = row_x + along_z[0, z], row_y + along_z[1, z], row_z + along_z[2, z]
                px, py, pz = (
                    min(max(free_x, zero), last_x),
                    min(max(free_y, zero), last_y),
                    min(max(free_z, zero), last_z),
                )
                inside[z] = (abs(free_x - px) <= half) & (abs(free_y - py) <= half) & (abs(free_z - pz) <= half)
                x0, y0, z0 = np.int32(px), np.int32(py), np.int32(pz)
                part_x[z], part_y[z], part_z[z] = px - np.float32(x0), py - np.float32(y0), pz - np.float32(z0)
                corner[z] = np.uint32(x0) * up_x + np.uint32(y0) * up_y + np.uint32(z0)
            for c in range(channels):
                values, outside, row = flat[c], least[c], mapped[c, x, y]
                for z in range(out_z):
                    i, share = corner[z], part_z[z]
                    low_low = values[i] + share * (values[i + one] - values[i])
                    i += up_y
                    low_high = values[i] + share * (values[i + one] - values[i])
                    i += up_x
                    high_high = values[i] + share * (values[i + one] - values[i])
                    i -= up_y
                    high_low = values[i] + share * (values[i + one] - values[i])
                    low = low_low + part_y[z] * (low_high - low_low)
                    high = high_low + part_y[z] * (high_high - high_low)
                    row[z] = low + part_x[z] * (high - low) if inside[z] else outside


@compile_loop
def _resample_labels_on_host(labels, mapped, along_x, along_y, along_z):
    nx, ny, nz = labels.shape
    for x in range(nx):
        for y in range(ny):
            row_x = along_x[0, x] + along_y[0, y]
            row_y = along_x[1, x] + along_y[1, y]
            row_z = along_x[2, x] + along_y[2, y]
            for z in range(nz):
                px, py, pz = row_x + along_z[0, z], row_y + along_z[1, z], row_z + along_z[2, z]
                if -0.5 <= px <= nx - 0.5 and -0.5 <= py <= ny - 0.5 and -0.5 <= pz <= nz - 0.5:
                    ix = min(max(int(np.rint(px)), 0), nx - 1)
                    iy = min(max(int(np.rint(py)), 0), ny - 1)
                    iz = min(max(int(np.rint(pz)), 0), nz - 1)
                    mapped[x, y, z] = labels[ix, iy, iz]
