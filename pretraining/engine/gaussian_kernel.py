"""Triton kernel of a convolution along one axis (:mod:`pretraining.engine.artefacts.gaussian`)."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["half"])
def convolve(volume, result, weights, half, count, size, stride, mirrored, BLOCK: tl.constexpr):
    """Convolve with a symmetric kernel.

    Args:
        volume: (count,) float32, elements of a volume.
        result: (count,) float32, elements of the result.
        weights: (half + 1,) float32, from the middle of the kernel to its end.
        half: Half width of the kernel, voxels.
        size: Length of the axis, voxels.
        stride: Distance of neighbours along the axis, elements.
        mirrored: 1 to mirror the volume outside, with the edge voxel repeated; 0 for zeros outside.
    """
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = e < count
    place = (e // stride % size).to(tl.int32)
    line = volume + e - place.to(tl.int64) * stride
    total = tl.load(volume + e, mask=exists, other=0) * tl.load(weights)
    for shift in range(1, half + 1):
        weight = tl.load(weights + shift)
        for side in tl.static_range(2):
            neighbour = place - shift if side == 0 else place + shift
            within = exists & ((mirrored != 0) | ((neighbour >= 0) & (neighbour < size)))
            # The mirrored axis has a period of twice its length. The added multiple makes the index
            # positive, as half may exceed the axis.
            turn = (neighbour + 2 * size * (half + 1)) % (2 * size)
            seen = tl.where(turn < size, turn, 2 * size - 1 - turn)
            total += tl.load(line + seen.to(tl.int64) * stride, mask=within, other=0) * weight
    tl.store(result + e, total, mask=exists)
