"""Writing affinely mapped templates into a label volume, by nearest lookup in a periodic grid (Algorithm 1, lines 4 to 6).

A template's coordinate along one axis is a sum of one contribution per output axis. It is kept as a 32-bit fraction of
the period: integer overflow then *is* the periodic wrap, and "inside the template's crop" is a single comparison. The template
stays cropped and bit-packed; its zero padding is never made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretraining.engine.upload import upload

TURN = 2**32
"""One period in fixed point."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one template lands: all that a lookup needs, on the host."""

    crop: tuple[int, int, int]
    """Shape of the template's bounding box, voxels."""
    period: tuple[int, int, int]
    """Distance after which the padded template repeats, voxels."""
    contributions: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Per output axis, (3, X), (3, Y), (3, Z) int32: what each index adds to the three input coordinates, in 1/2**32 of a
    period, -2**31 standing for the first voxel of the crop."""

    @property
    def limits(self) -> list[int]:
        """Per input axis, the greatest fixed-point coordinate inside the crop."""
        return [-(-n * TURN // p) - TURN // 2 - 1 for n, p in zip(self.crop, self.period, strict=True)]


def place(
    matrix: np.ndarray, *, crop: tuple[int, ...], offset: tuple[int, ...], period: tuple[int, ...], shape: tuple[int, ...]
) -> Placement:
    """Prepare a lookup.

    Parameters
    ----------
    matrix : (3, 4), from output index to index in the padded template.
    crop : shape of the template's bounding box, voxels.
    offset : zero voxels before the crop along each axis (negative: voxels of the crop cut away), voxels.
    period : after how many voxels the padded template repeats.
    shape : of the output, voxels.
    """
    turns_per_voxel = TURN / np.asarray(period, dtype=np.float64)
    # Half a voxel turns "the nearest" into "the voxel that we are in".
    origin = (matrix[:, 3] + 0.5 - np.asarray(offset)) * turns_per_voxel - TURN // 2
    contributions = []
    for axis, size in enumerate(shape):
        steps = matrix[:, axis, None] * np.arange(size) * turns_per_voxel[:, None]
        if axis == 0:
            steps = steps + origin[:, None]
        contributions.append((np.rint(steps).astype(np.int64) % TURN).astype(np.uint32).view(np.int32))
    return Placement(crop=tuple(crop), period=tuple(period), contributions=tuple(contributions))


def stamp(labels: Tensor, label: int, packed: Tensor, placement: Placement) -> None:
    """Write ``label`` into ``labels`` wherever the placed template is set.

    Parameters
    ----------
    labels : (X, Y, Z) uint8, contiguous; changed in place.
    label : 1..255.
    packed : uint8, the crop's bits in C order, lowest bit first; on the device of ``labels``.
    placement : from :func:`place`.
    """
    tables = [upload(table, labels.device) for table in placement.contributions]
    if labels.device.type == "cpu":
        _stamp_sparsely(labels, label, packed, placement, tables)
    else:
        _stamp_densely(labels, label, packed, placement, tables)


def _stamp_densely(labels: Tensor, label: int, packed: Tensor, placement: Placement, tables: list[Tensor]) -> None:
    """Every voxel takes the same way, so that a device never has to report back how many there are."""
    along_x, along_y, along_z = tables
    set_here, bit = None, None
    for axis, (size, period, limit) in enumerate(zip(placement.crop, placement.period, placement.limits, strict=True)):
        turns = (along_x[axis, :, None] + along_y[axis])[..., None] + along_z[axis]
        inside = turns <= limit
        index = _voxel(turns, period, size)
        set_here = inside if set_here is None else set_here & inside
        bit = index if bit is None else bit * size + index
    bit = torch.where(set_here, bit, 0)
    set_here = set_here & ((packed[bit >> 3] >> (bit & 7).to(torch.uint8)) & 1).bool()
    labels.masked_fill_(set_here, label)


def _stamp_sparsely(labels: Tensor, label: int, packed: Tensor, placement: Placement, tables: list[Tensor]) -> None:
    """Only voxels inside the crop are looked up; slabs of x keep the work inside a processor's cache."""
    along_x, along_y, along_z = tables
    nx, ny, nz = labels.shape
    rows = along_x[:, :, None] + along_y[:, None, :]
    flat = labels.view(-1)
    thickness = max(1, 2**17 // (ny * nz))
    for start in range(0, nx, thickness):
        slab = rows[:, start : start + thickness]
        turns = [slab[axis][..., None] + along_z[axis] for axis in range(3)]
        inside = turns[0] <= placement.limits[0]
        inside &= turns[1] <= placement.limits[1]
        inside &= turns[2] <= placement.limits[2]
        # NumPy finds the few set voxels several times faster than torch.nonzero.
        where = torch.from_numpy(np.flatnonzero(inside.numpy()))
        if not len(where):
            continue
        bit = None
        for axis, (size, period) in enumerate(zip(placement.crop, placement.period, strict=True)):
            index = _voxel(turns[axis].view(-1)[where], period, size)
            bit = index if bit is None else bit * size + index
        is_set = (packed[bit >> 3] >> (bit & 7).to(torch.uint8)) & 1
        where += start * ny * nz
        flat[where] = torch.where(is_set.bool(), label, flat[where])


def _voxel(turns: Tensor, period: int, size: int) -> Tensor:
    """Index in the crop, int32, of coordinates inside it (elsewhere: anything in range)."""
    # float32 keeps 24 bits, about 1e-4 voxel at worst; the upper clamp catches what it rounds up.
    return (turns * (period / TURN) + period / 2).int().clamp_(max=size - 1)
