"""Triton kernel of the 3x3x3 median of 8-bit values (see :mod:`pretraining.engine.median`)."""

import triton
import triton.language as tl


@triton.jit
def median(volume, result, nx, ny, nz, BLOCK: tl.constexpr):
    """Write the medians of a (nx, ny, nz) uint8 volume, with the edge voxel repeated outside.

    The median of 27 values is the greatest number with at most 13 values below it. Its bits are
    found one by one, from the highest.
    """
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < nx * ny * nz
    x, y, z = voxel // (ny * nz), voxel // nz % ny, voxel % nz
    values = ()  # type: tuple[tl.tensor, ...]  # in a comment, since Triton would compile an annotation
    for i in tl.static_range(27):
        at_x = tl.minimum(tl.maximum(x + (i // 9 - 1), 0), nx - 1)
        at_y = tl.minimum(tl.maximum(y + (i // 3 % 3 - 1), 0), ny - 1)
        at_z = tl.minimum(tl.maximum(z + (i % 3 - 1), 0), nz - 1)
        values += (tl.load(volume + (at_x * ny + at_y) * nz + at_z, mask=exists, other=0).to(tl.int32),)
    found = tl.zeros([BLOCK], tl.int32)
    for bit in tl.static_range(8):
        candidate = found + (128 >> bit)
        below = tl.zeros([BLOCK], tl.int32)
        for i in tl.static_range(27):
            below += (values[i] < candidate).to(tl.int32)
        found = tl.where(below <= 13, candidate, found)
    tl.store(result + voxel, found.to(tl.uint8), mask=exists)
