"""Exact 3x3x3 median filter (Algorithm 1, line 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.common.triton_support import can_run_triton, launch

CACHED_VOXELS = 2**17
"""Voxels per slab on a CPU, so that the arrays of the network fit its cache."""


def median_3x3x3(volume: Tensor) -> Tensor:
    """Replace each voxel by the median of its 27 neighbours.

    Args:
        volume: (X, Y, Z), any ordered dtype, at least 1 voxel per axis.

    Returns:
        (X, Y, Z), same dtype. The edge voxel is repeated outside, which in a 3x3x3 window equals
        mirroring: ``scipy.ndimage.median_filter(volume, 3)``.

    Notes:
        The algorithm is a selection network. Triples are sorted along z, then y, then x, and
        neighbouring windows share that work. Then the element of ranks (i, j, k) has at least
        (i+1)(j+1)(k+1) - 1 elements not above it and (3-i)(3-j)(3-k) - 1 not below it. So 4
        elements are below and 4 above the median for certain, and 19 candidates remain. They are
        reduced by removing the minimum and the maximum of 11, then 10, ... of them, as neither can
        be the median.
    """
    if volume.dtype == torch.uint8 and can_run_triton(volume.device):
        return _median_in_one_launch(volume)
    padded = _repeat_edges(volume)
    if volume.device.type != "cpu":
        return _median_of_inner(padded)
    # Slabs of x keep the 27 arrays of the network inside a processor's cache.
    thickness = max(1, CACHED_VOXELS // (padded.shape[1] * padded.shape[2]))
    starts = range(0, volume.shape[0], thickness)
    return torch.cat([_median_of_inner(padded[start : start + thickness + 2]) for start in starts])


def _median_in_one_launch(volume: Tensor) -> Tensor:
    from pretraining.engine import median_kernel

    volume = volume.contiguous()
    result = torch.empty_like(volume)
    launch(median_kernel.median, (-(-volume.numel() // 256),), volume, result, *volume.shape, block=256)
    return result


def _median_of_inner(padded: Tensor) -> Tensor:
    """Compute the medians around all voxels that have 26 neighbours."""
    sorted_z = _sort3(*_windows(padded, 2))
    sorted_zy = {(k, j): plane for k, line in enumerate(sorted_z) for j, plane in enumerate(_sort3(*_windows(line, 1)))}
    candidates = []
    for (k, j), plane in sorted_zy.items():
        ranks = [i for i in range(3) if (i + 1) * (j + 1) * (k + 1) <= 14 and (3 - i) * (3 - j) * (3 - k) <= 14]
        if ranks:
            cube = _sort3(*_windows(plane, 0))
            candidates += [cube[i] for i in ranks]
    return _median_of_19(candidates)


def majority_3x3x3(mask: Tensor) -> Tensor:
    """Compute the 3x3x3 median of a (X, Y, Z) bool mask: at least 14 of 27 neighbours are set."""
    count = _repeat_edges(mask.to(torch.uint8))
    for axis in range(3):
        low, middle, high = _windows(count, axis)
        count = low + middle + high
    return count >= 14


def _repeat_edges(volume: Tensor) -> Tensor:
    if volume.dtype.is_floating_point:
        return F.pad(volume[None, None], (1,) * 6, mode="replicate")[0, 0]
    for axis in range(3):
        first, last = volume.narrow(axis, 0, 1), volume.narrow(axis, -1, 1)
        volume = torch.cat([first, volume, last], dim=axis)
    return volume


def _windows(volume: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the previous voxel, the voxel and the next one along ``axis``, without the borders."""
    size = volume.shape[axis] - 2
    return volume.narrow(axis, 0, size), volume.narrow(axis, 1, size), volume.narrow(axis, 2, size)


def _sort2(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(a, b), torch.maximum(a, b)


def _sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = _sort2(a, b)
    b, c = _sort2(b, c)
    a, b = _sort2(a, b)
    return a, b, c


def _median_of_19(values: list[Tensor]) -> Tensor:
    """Compute the median of 19 tensors, voxel by voxel."""
    candidates, remaining = values[:11], values[11:]
    while len(candidates) > 3:
        candidates = _drop_extremes(candidates)
        if remaining:
            candidates.append(remaining.pop())
    return _sort3(*candidates)[1]


def _drop_extremes(values: list[Tensor]) -> list[Tensor]:
    """Remove the minimum and the maximum.

    Pairs are sorted first: the minimum is among their lower values, the maximum among the higher.
    """
    lows, highs = [], []
    for a, b in zip(values[0::2], values[1::2], strict=False):
        low, high = _sort2(a, b)
        lows.append(low)
        highs.append(high)
    if len(values) % 2:
        # The unpaired value is compared with one pair: its lowest and highest value are candidates
        # for the extremes, and the one in between is neither.
        low, odd = _sort2(lows.pop(), values[-1])
        lows.append(low)
        odd, high = _sort2(odd, highs.pop())
        highs.append(high)
        middle = [odd]
    else:
        middle = []
    lows = _drop_extreme(lows, torch.minimum, torch.maximum)
    highs = _drop_extreme(highs, torch.maximum, torch.minimum)
    return middle + lows + highs


def _drop_extreme(values: list[Tensor], extreme, opposite) -> list[Tensor]:
    """Remove the minimum or maximum, which ``extreme`` selects from two values.

    ``opposite`` selects the other one.
    """
    found, rest = values[0], []
    for value in values[1:]:
        rest.append(opposite(found, value))
        found = extreme(found, value)
    return rest
