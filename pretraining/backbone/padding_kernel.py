"""Triton kernels of :mod:`pretraining.backbone.padding`: padding by one voxel, and its adjoint.

Volumes are dense and channels-last: a row is all of (Z, C) at one (x, y). A program processes a
part of one row. A border voxel copies the voxel ``shift`` further inside: 2 for reflection, 1 for
replication.
"""

import triton
import triton.language as tl


@triton.jit
def pad(volume, padded, X, Y, row, channels, shift, BLOCK: tl.constexpr):
    """Fill a padded volume.

    The grid of programs is (B (X + 2) (Y + 2), parts of a padded row).

    Args:
        volume: Pointer to the volume, B X Y rows of Z C elements.
        padded: Pointer to the result, B (X + 2) (Y + 2) rows of (Z + 2) C elements.
        X: Size along x, voxels.
        Y: Size along y, voxels.
        row: Z C, elements.
        channels: C.
        shift: Distance from a border voxel to its source.
        BLOCK: Number of elements per program.
    """
    index = tl.program_id(0)
    x, y, batch = index // (Y + 2) % (X + 2), index % (Y + 2), index // ((X + 2) * (Y + 2))
    from_x = x - 1 + tl.where(x == 0, shift, 0) - tl.where(x == X + 1, shift, 0)
    from_y = y - 1 + tl.where(y == 0, shift, 0) - tl.where(y == Y + 1, shift, 0)
    source = volume + ((batch * X + from_x) * Y + from_y).to(tl.int64) * row
    target = padded + index.to(tl.int64) * (row + 2 * channels)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = e < row + 2 * channels
    from_e = (
        e - channels + tl.where(e < channels, shift * channels, 0) - tl.where(e >= row + channels, shift * channels, 0)
    )
    tl.store(target + e, tl.load(source + from_e, mask=exists), mask=exists)


@triton.jit
def fold(padded, volume, X, Y, row, channels, shift, BLOCK: tl.constexpr):
    """Sum into each voxel all copies that :func:`pad` made of it, in float32 and a fixed order.

    The grid of programs is (B X Y, parts of a row).

    Args:
        padded: Pointer to the padded volume, B (X + 2) (Y + 2) rows of (Z + 2) C elements.
        volume: Pointer to the result, B X Y rows of Z C elements.
        X: Size along x, voxels.
        Y: Size along y, voxels.
        row: Z C, elements.
        channels: C.
        shift: Distance from a border voxel to its source.
        BLOCK: Number of elements per program.
    """
    index = tl.program_id(0)
    x, y, batch = index // Y % X, index % Y, index // (X * Y)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = e < row
    first = exists & (e >= (shift - 1) * channels) & (e < shift * channels)
    last = exists & (e >= row - shift * channels) & (e < row - (shift - 1) * channels)
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(9):
        # The voxel's own row, and the faces that copy it.
        at_x = x + 1 if i // 3 == 0 else (0 if i // 3 == 1 else X + 1)
        at_y = y + 1 if i % 3 == 0 else (0 if i % 3 == 1 else Y + 1)
        in_x = i // 3 == 0 or (x == shift - 1 if i // 3 == 1 else x == X - shift)
        in_y = i % 3 == 0 or (y == shift - 1 if i % 3 == 1 else y == Y - shift)
        if in_x and in_y:
            source = padded + ((batch * (X + 2) + at_x) * (Y + 2) + at_y).to(tl.int64) * (row + 2 * channels)
            total += tl.load(source + e + channels, mask=exists, other=0).to(tl.float32)
            total += tl.load(source + e - (shift - 1) * channels, mask=first, other=0).to(tl.float32)
            total += tl.load(source + e + (shift + 1) * channels, mask=last, other=0).to(tl.float32)
    tl.store(volume + index.to(tl.int64) * row + e, total.to(volume.dtype.element_ty), mask=exists)
