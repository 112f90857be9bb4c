"""Triton kernel that pastes all templates of a volume (see :mod:`pretraining.engine.placement`)."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def stamp(labels, addresses, constants, tables, count, nx, ny, nz, BLOCK: tl.constexpr):
    """Paste templates one after another, later ones over earlier ones.

    Args:
        labels: (nx, ny, nz) uint8, changed in place.
        addresses: (count,) int64, address of each template's bits.
        constants: (count, 3, 5) int32, see ``placement._constants``.
        tables: (count, 3, nx + ny + nz) int32, contributions of each output index to the three
            coordinates.
        count: Number of templates.
    """
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < nx * ny * nz
    x, y, z = voxel // (ny * nz), voxel // nz % ny, voxel % nz
    label = tl.load(labels + voxel, mask=exists, other=0).to(tl.int32)
    for i in range(count):
        inside = exists
        bit = tl.zeros([BLOCK], tl.int32)
        for axis in tl.static_range(3):
            table = tables + (i * 3 + axis) * (nx + ny + nz)
            # Integer overflow is the periodic wrap.
            turns = tl.load(table + x) + tl.load(table + nx + y) + tl.load(table + nx + ny + z)
            constant = constants + (i * 3 + axis) * 5
            limit, last, stride = tl.load(constant), tl.load(constant + 1), tl.load(constant + 2)
            scale = tl.load(constant + 3).to(tl.float32, bitcast=True)
            offset = tl.load(constant + 4).to(tl.float32, bitcast=True)
            inside = inside & (turns <= limit)
            index = tl.minimum((turns.to(tl.float32) * scale + offset).to(tl.int32), last)
            bit += index * stride
        bits = tl.load(addresses + i).to(tl.pointer_type(tl.uint8))
        byte = tl.load(bits + (bit >> 3), mask=inside, other=0).to(tl.int32)
        label = tl.where((byte >> (bit & 7)) & 1 != 0, i + 1, label)
    tl.store(labels + voxel, label.to(tl.uint8), mask=exists)
