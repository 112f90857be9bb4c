"""Triton kernels of affine resampling (see :mod:`pretraining.engine.resample`)."""

import triton
import triton.language as tl


@triton.jit
def _place(tables, axis, x, y, z, out_x, out_y, out_z):
    """Compute the input coordinate of output voxels along one axis."""
    table = tables + axis * (out_x + out_y + out_z)
    return tl.load(table + x) + tl.load(table + out_x + y) + tl.load(table + out_x + out_y + z)


@triton.jit
def linear(volume, mapped, least, tables, nx, ny, nz, out_x, out_y, out_z, BLOCK: tl.constexpr):
    """Interpolate trilinearly, on a grid of programs (blocks of the output volume, channels).

    Args:
        volume: (C, nx, ny, nz) float32.
        mapped: (C, out_x, out_y, out_z) float32, the result.
        least: (C,) float32, values outside.
        tables: (3, out_x + out_y + out_z) float32, contributions of each output index to the three
            coordinates.
    """
    count = out_x * out_y * out_z
    channel = tl.program_id(1)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = e < count
    x, y, z = e // (out_y * out_z), e // out_z % out_y, e % out_z
    free_x = _place(tables, 0, x, y, z, out_x, out_y, out_z)
    free_y = _place(tables, 1, x, y, z, out_x, out_y, out_z)
    free_z = _place(tables, 2, x, y, z, out_x, out_y, out_z)
    px = tl.minimum(tl.maximum(free_x, 0.0), nx - 1.0)
    py = tl.minimum(tl.maximum(free_y, 0.0), ny - 1.0)
    pz = tl.minimum(tl.maximum(free_z, 0.0), nz - 1.0)
    inside = exists & (tl.abs(free_x - px) <= 0.5) & (tl.abs(free_y - py) <= 0.5) & (tl.abs(free_z - pz) <= 0.5)
    x0, y0, z0 = px.to(tl.int32), py.to(tl.int32), pz.to(tl.int32)
    x1, y1, z1 = tl.minimum(x0 + 1, nx - 1), tl.minimum(y0 + 1, ny - 1), tl.minimum(z0 + 1, nz - 1)
    part_x, part_y, part_z = px - x0.to(tl.float32), py - y0.to(tl.float32), pz - z0.to(tl.float32)
    values = volume + channel.to(tl.int64) * nx * ny * nz
    total = tl.zeros([BLOCK], tl.float32)
    for corner in tl.static_range(8):
        at_x = x1 if corner // 4 else x0
        at_y = y1 if corner // 2 % 2 else y0
        at_z = z1 if corner % 2 else z0
        share_x = part_x if corner // 4 else 1 - part_x
        share_y = part_y if corner // 2 % 2 else 1 - part_y
        share_z = part_z if corner % 2 else 1 - part_z
        total += tl.load(values + (at_x * ny + at_y) * nz + at_z, mask=inside, other=0) * (share_x * share_y * share_z)
    outside = tl.load(least + channel)
    tl.store(mapped + channel.to(tl.int64) * count + e, tl.where(inside, total, outside), mask=exists)


@triton.jit
def nearest(labels, mapped, tables, nx, ny, nz, out_x, out_y, out_z, BLOCK: tl.constexpr):
    """Look up uint8 labels at the nearest voxel, 0 outside; arguments as for :func:`linear`."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = e < out_x * out_y * out_z
    x, y, z = e // (out_y * out_z), e // out_z % out_y, e % out_z
    flat = tl.zeros([BLOCK], tl.int32)
    inside = exists
    for axis in tl.static_range(3):
        size = nx if axis == 0 else (ny if axis == 1 else nz)
        place = _place(tables, axis, x, y, z, out_x, out_y, out_z)
        inside = inside & (place >= -0.5) & (place <= size - 0.5)
        # Round half to even, as the other implementations do.
        below = tl.floor(place)
        part = place - below
        lower = below.to(tl.int32)
        up = (part > 0.5) | ((part == 0.5) & (lower % 2 != 0))
        flat = flat * size + tl.minimum(tl.maximum(lower + up.to(tl.int32), 0), size - 1)
    tl.store(mapped + e, tl.load(labels + flat, mask=inside, other=0), mask=exists)
