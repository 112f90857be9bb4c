"""The median of 3x3x3 neighbourhoods, exactly (Algorithm 1, line 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.common.triton_support import can_run_triton, launch

CACHED_VOXELS = 2**17
"""Slab size on a CPU."""


def median_3x3x3(volume: Tensor) -> Tensor:
    """Replace each voxel by the median of its 27 neighbours.

    Args:
        volume: (X, Y, Z), any dtype with an order, at least 1 voxel an axis.

    Returns:
        (X, Y, Z), same dtype. Borders are mirrored with the edge voxel repeated, which in a 3x3x3
        window equals repeating it: ``scipy.ndimage.median_filter(volume, 3)``.

    Notes:
        A selection network. Triples are sorted along z, then y, then x; neighbouring windows share
        that work. After it, the element of ranks (i, j, k) has at least (i+1)(j+1)(k+1) - 1
        elements not above it and (3-i)(3-j)(3-k) - 1 not below, so that 4 elements are surely below
        and 4 surely above the median, and 19 remain. Those are reduced by taking away the least and
        the greatest of each 11, 10, ... candidates, as neither can be the median.
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
    """Medians around all voxels that have 26 neighbours."""
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
    """:func:`median_3x3x3` of a (X, Y, Z) bool mask: whether at least 14 of the 27 neighbours are set."""
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
    """The three neighbours along ``axis`` of every voxel that has both."""
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
    """Median of 19 tensors, voxel by voxel."""
    kept, waiting = values[:11], values[11:]
    while len(kept) > 3:
        kept = _without_extremes(kept)
        if waiting:
            kept.append(waiting.pop())
    return _sort3(*kept)[1]


def _without_extremes(values: list[Tensor]) -> list[Tensor]:
    """Take away the least and the greatest: pairs are sorted, then the least of the lows and the greatest of the highs are found."""
    lows, highs = [], []
    for a, b in zip(values[0::2], values[1::2], strict=False):
        low, high = _sort2(a, b)
        lows.append(low)
        highs.append(high)
    if len(values) % 2:
        # The odd one joins both races; whichever value leaves it behind stays in the middle.
        low, odd = _sort2(lows.pop(), values[-1])
        lows.append(low)
        odd, high = _sort2(odd, highs.pop())
        highs.append(high)
        middle = [odd]
    else:
        middle = []
    return middle + _without(lows, torch.minimum, torch.maximum) + _without(highs, torch.maximum, torch.minimum)


def _without(values: list[Tensor], winner, loser) -> list[Tensor]:
    """Let a champion pass through ``values`` and drop it, keeping the losers."""
    champion, rest = values[0], []
    for value in values[1:]:
        rest.append(loser(champion, value))
        champion = winner(champion, value)
    return rest
