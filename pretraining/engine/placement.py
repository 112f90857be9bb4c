"""Placement of affinely mapped templates in a label volume (Algorithm 1, lines 4 to 6).

Each voxel looks up the nearest voxel of a template on a periodic grid. The template's coordinate
along one axis is a sum of one contribution per output axis. It is stored as a 32-bit fraction of
the period, so that integer overflow is the periodic wrap and "inside the template's crop" is a
single comparison. The template stays cropped and bit-packed; its zero padding is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretraining.common.triton_support import can_run_triton, launch
from pretraining.engine.execution import compile_loop, upload

Triple = tuple[int, int, int]

TURN = 2**32
"""One period in fixed-point units."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Lookup tables of one template, on the host."""

    crop: tuple[int, int, int]
    """Shape of the template's bounding box, voxels."""
    first: tuple[int, int, int]
    """Index in the crop of the first voxel that is used."""
    count: tuple[int, int, int]
    """Number of voxels of the crop that are used along each axis."""
    period: tuple[int, int, int]
    """Distance after which the padded template repeats, voxels."""
    contributions: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Contribution of each index along each output axis to the three input coordinates: (3, X),
    (3, Y), (3, Z) int32, in 1/2**32 of a period; -2**31 is the first voxel that is used.
    """

    @property
    def limits(self) -> list[int]:
        """Greatest fixed-point coordinate of a used voxel along each input axis, in int32."""
        return [-(-n * TURN // p) - TURN // 2 - 1 for n, p in zip(self.count, self.period, strict=True)]


def make_placement(
    matrix: np.ndarray,
    *,
    crop: Triple,
    offset: Triple,
    period: Triple,
    shape: Triple,
    first: Triple = (0, 0, 0),
    count: Triple | None = None,
    curves: Sequence[np.ndarray] | None = None,
) -> Placement:
    """Compute the lookup tables of one template.

    Args:
        matrix: (3, 4), from output index to index in the padded template.
        crop: Shape of the template's bounding box, voxels.
        offset: Index of the crop's first used voxel in the padded template.
        period: Number of voxels after which the padded template repeats.
        shape: (X, Y, Z) of the output, voxels.
        first: Index in the crop of the first voxel that is used.
        count: Number of voxels of the crop that are used along each axis. Default: all.
        curves: Displacement added by each index along each output axis, (3, X), (3, Y), (3, Z),
            voxels; see :func:`pretraining.engine.bending.bend_curves`. Default: none.
    """
    turns_per_voxel = TURN / np.asarray(period, dtype=np.float64)
    # Adding half a voxel turns rounding to the nearest voxel into truncation.
    origin = (matrix[:, 3] + 0.5 - np.asarray(offset)) * turns_per_voxel - TURN // 2
    contributions = []
    for axis, size in enumerate(shape):
        steps = matrix[:, axis, None] * np.arange(size) * turns_per_voxel[:, None]
        if curves is not None:
            steps = steps + curves[axis] * turns_per_voxel[:, None]
        if axis == 0:
            steps = steps + origin[:, None]
        contributions.append((np.rint(steps).astype(np.int64) % TURN).astype(np.uint32).view(np.int32))
    return Placement(crop=crop, first=first, count=count or crop, period=period, contributions=tuple(contributions))


def paste_templates(labels: Tensor, packed: Sequence[Tensor], placements: Sequence[Placement]) -> None:
    """Paste templates one after another: where the i-th, counted from 1, is set, labels become i.

    Args:
        labels: (X, Y, Z) uint8, contiguous; changed in place.
        packed: Bits of each template's crop in C order, lowest bit first, uint8 on the device of
            ``labels``; at most 255 templates.
        placements: Lookup tables of each template, from :func:`make_placement`.
    """
    if labels.device.type == "cpu":
        for label, (bits, placement) in enumerate(zip(packed, placements, strict=True), start=1):
            _paste_on_host(labels.numpy(), label, bits.numpy(), placement)
    elif can_run_triton(labels.device):
        _paste_in_one_launch(labels, packed, placements)
    else:
        _paste_one_by_one(labels, packed, placements)


def _paste_in_one_launch(labels: Tensor, packed: Sequence[Tensor], placements: Sequence[Placement]) -> None:
    from pretraining.engine import stamp_kernel

    constants, tables = _parameters(placements)
    addresses = np.array([_address(bits) for bits in packed], dtype=np.int64)
    whole = np.concatenate([addresses.view(np.int32), constants.ravel(), tables.ravel()])
    addresses, constants, tables = upload(whole, labels.device).split([2 * len(packed), constants.size, tables.size])
    count, grid = len(packed), (-(-labels.numel() // 256),)
    launch(
        stamp_kernel.stamp,
        grid,
        labels,
        addresses.view(torch.int64),
        constants,
        tables,
        count,
        *labels.shape,
        block=256,
    )


def _address(bits: Tensor) -> int:
    return bits.data_ptr()


def _parameters(placements: Sequence[Placement]) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 3, 5) constants and (n, 3, X + Y + Z) contributions of all axes, int32."""
    constants = np.stack([_constants(placement) for placement in placements])
    tables = np.stack([np.concatenate(placement.contributions, axis=1) for placement in placements])
    return constants, tables


def _paste_one_by_one(labels: Tensor, packed: Sequence[Tensor], placements: Sequence[Placement]) -> None:
    """Paste templates with PyTorch's operations, on any device.

    All voxels are computed, inside the crop or not, so that the host need not wait for the number
    of those inside. All parameters are copied at once and the three axes share each kernel, as the
    time of a GPU is spent on launches.
    """
    # float32 numbers are copied as int32 bit patterns, so that one copy has all tables.
    constants, tables = _parameters(placements)
    constants, tables = upload(np.concatenate([constants, tables], axis=2), labels.device).split(
        [constants.shape[2], tables.shape[2]], dim=2
    )
    along_x, along_y, along_z = tables.split(list(labels.shape), dim=2)
    rows = along_x[..., None] + along_y[:, :, None]
    for label, bits in enumerate(packed, start=1):
        limit, last, stride, scale, offset = constants[label - 1, :, :, None, None, None].unbind(1)
        turns = rows[label - 1, ..., None] + along_z[label - 1, :, None, None, :]
        inside = (turns <= limit).all(0)
        # Outside the crop, too, this index is valid.
        index = torch.minimum((turns * scale.view(torch.float32)).add_(offset.view(torch.float32)).int(), last)
        bit = index.mul_(stride).sum(0, dtype=torch.int32)
        byte = bits.index_select(0, (bit >> 3).flatten()).view(bit.shape)
        labels.masked_fill_(((byte >> (bit & 7).to(torch.uint8)) & 1).bool().logical_and_(inside), label)


def _constants(placement: Placement) -> np.ndarray:
    """Return the constants of each input axis, (3, 5) int32.

    They are the last coordinate inside, the last index and the index stride, then, as float32 bit
    patterns, the scale and the offset from a coordinate to an index.
    """
    last = np.add(placement.first, placement.count) - 1
    _, y, z = placement.crop
    whole = np.array([placement.limits, last, (y * z, z, 1)], dtype=np.int32)
    period = np.array(placement.period, dtype=np.float64)
    return np.concatenate(
        [whole, np.array([period / TURN, period / 2 + placement.first], dtype=np.float32).view(np.int32)]
    ).T


def _paste_on_host(labels: np.ndarray, label: int, packed: np.ndarray, placement: Placement) -> None:
    # 32-bit words, as vector units gather words but not bytes.
    words = np.zeros(-(-len(packed) // 4), dtype="<u4")
    words.view(np.uint8)[: len(packed)] = packed
    period = np.array(placement.period, dtype=np.float64)
    _paste_rows(
        labels,
        np.uint8(label),
        words,
        *placement.contributions,
        np.array(placement.limits, dtype=np.int32),
        np.array(placement.crop, dtype=np.int32),
        (np.add(placement.first, placement.count) - 1).astype(np.float32),
        (period / TURN).astype(np.float32),
        (period / 2 + placement.first).astype(np.float32),
    )


@compile_loop
def _paste_rows(labels, label, words, along_x, along_y, along_z, limits, crop, last, scale, offset):
    """Paste one template row by row along z, in runs of voxels outside and inside its crop.

    Runs outside are skipped. Loops over runs inside have no branches, so that they are vectorized.
    """
    nx, ny, nz = labels.shape
    turn, rises, falls = np.empty(3, np.int32), np.zeros(3, np.bool_), np.zeros(3, np.bool_)
    steps_per_unit = np.zeros(3, np.float64)
    for axis in range(3):
        longest = np.int64(0)
        for z in range(nz - 1):
            # Shortest difference modulo the period: wrapped to 32 bits.
            step = np.int64(np.int32(along_z[axis, z + 1] - along_z[axis, z]))
            rises[axis] |= step > 0
            falls[axis] |= step < 0
            longest = max(longest, abs(step))
        if longest:
            steps_per_unit[axis] = 1 / longest
    (scale_x, scale_y, scale_z), (offset_x, offset_y, offset_z), (last_x, last_y, last_z) = scale, offset, last
    bit, is_set = np.empty(nz, np.uint32), np.empty(nz, np.uint32)
    for x in range(nx):
        for y in range(ny):
            row_x, row_y, row_z = (
                along_x[0, x] + along_y[0, y],
                along_x[1, x] + along_y[1, y],
                along_x[2, x] + along_y[2, y],
            )
            z = 0
            while z < nz:
                # Number of steps before a coordinate can enter or leave the crop, if all steps were
                # as long as the longest. A coordinate that both rises and falls can do so on either
                # side. Divisions are rounded, so the last step is examined again.
                outside, inside = 0, nz
                for axis in range(3):
                    turn[axis] = along_x[axis, x] + along_y[axis, y] + along_z[axis, z]
                    beyond = np.int64(turn[axis]) - limits[axis]
                    if beyond > 0:
                        to_enter = TURN // 2 - np.int64(turn[axis]) if rises[axis] else beyond
                        if falls[axis]:
                            to_enter = min(to_enter, beyond)
                        steps = int(to_enter * steps_per_unit[axis]) - 1 if steps_per_unit[axis] else nz
                        outside = max(outside, steps, 1)
                    elif steps_per_unit[axis]:
                        to_leave = -beyond if rises[axis] else np.int64(turn[axis]) + TURN // 2
                        if falls[axis]:
                            to_leave = min(to_leave, np.int64(turn[axis]) + TURN // 2)
                        inside = min(inside, int(to_leave * steps_per_unit[axis]))
                if outside:
                    z += outside
                    continue
                count = min(max(inside - 1, 1), nz - z)
                for i in range(count):
                    # float32 has 24 bits, an error of at most 1e-4 voxel; the minimum corrects
                    # indices that are rounded beyond the end of the crop.
                    index_x = min(np.float32(np.int32(row_x + along_z[0, z + i])) * scale_x + offset_x, last_x)
                    index_y = min(np.float32(np.int32(row_y + along_z[1, z + i])) * scale_y + offset_y, last_y)
                    index_z = min(np.float32(np.int32(row_z + along_z[2, z + i])) * scale_z + offset_z, last_z)
                    bit[i] = np.uint32((np.int32(index_x) * crop[1] + np.int32(index_y)) * crop[2] + np.int32(index_z))
                for i in range(count):
                    is_set[i] = words[bit[i] >> np.uint32(5)] >> (bit[i] & np.uint32(31))
                for i in range(count):
                    labels[x, y, z + i] = label if is_set[i] & np.uint32(1) else labels[x, y, z + i]
                z += count
