"""A 3×3×3 convolution of a volume upsampled by nearest neighbour, computed on the coarse grid.

Along one axis, the window (i - 1, i) of the coarse grid serves two outputs, in which one of the
three taps falls on one of its voxels and two on the other:

============== ======== ========
output         i - 1    i
============== ======== ========
even, 2i       w0       w1 + w2
odd, 2i - 1    w0 + w1  w2
============== ======== ========

So a single convolution with kernels of 2×2×2 and 8 times as many channels computes all outputs: 64
products per coarse voxel and pair of channels in place of 216, and the upsampled volume is never
made. The equality is exact; sums are rounded in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.padding import layout_of, pad_by_one

_TAPS_OF_AXIS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
"""(even or odd output, coarse voxel of the window, tap of the kernel)."""


def add_upsampled_convolution(
    to: Tensor, below: Tensor, weight: Tensor, *, padding: Literal["reflect", "zeros"]
) -> Tensor:
    """Add the convolution of an upsampled volume.

    Args:
        to: (B, O, 2X, 2Y, 2Z), the output of a convolution; overwritten in eager mode.
        below: (B, I, X, Y, Z), to be upsampled twofold by nearest neighbour.
        weight: (O, I, 3, 3, 3).
        padding: What lies beyond the border of the upsampled volume.

    Returns:
        (B, O, 2X, 2Y, 2Z), ``to`` + conv(pad(upsampled)).
    """
    margin = 1 if padding == "zeros" else 0
    # What reflection finds beyond the border of the fine grid is the outermost coarse voxel.
    source = below if padding == "zeros" else pad_by_one(below, "replicate")
    if torch.compiler.is_compiling():
        return to + interleave(functional.conv3d(source, subpixel_kernel(weight), padding=margin))
    if _in_long_rows(to):
        kernels = subpixel_kernel(weight, in_rows=True).split(2 * len(weight))
        for phase, kernel in enumerate(kernels):
            to = _AddRows.apply(to, functional.conv3d(source, kernel, padding=margin), phase)
        return to
    return _AddInterleaved.apply(to, functional.conv3d(source, subpixel_kernel(weight), padding=margin))


def _in_long_rows(to: Tensor) -> bool:
    """Whether outputs are added row by row: a CPU's vector units want long rows, a GPU one large product."""
    return to.device.type == "cpu" and layout_of(to) == torch.channels_last_3d


def subpixel_kernel(weight: Tensor, *, in_rows: bool = False) -> Tensor:
    """Merge the taps that fall on the same coarse voxel.

    Args:
        weight: (O, I, 3, 3, 3).
        in_rows: Whether, along z, the odd output of a window comes before its even one, as on the
            fine grid.

    Returns:
        (8 O, I, 2, 2, 2); outputs are ordered by (even or odd along x, y, z; output channel).
    """
    out_channels, in_channels = weight.shape[:2]
    # Sums of up to eight taps are rounded once, to the precision of the convolution.
    with torch.autocast(weight.device.type, enabled=False):
        taps = weight.permute(0, 2, 3, 4, 1).reshape(out_channels, 27, in_channels)
        # Compilers fold constants themselves, and do not follow a cache.
        merging = _merging if torch.compiler.is_compiling() else _kept_merging
        merged = torch.matmul(merging(weight.dtype, weight.device, in_rows), taps)
    merged = merged.view(out_channels, 8, 2, 2, 2, in_channels).transpose(0, 1)
    return merged.reshape(8 * out_channels, 2, 2, 2, in_channels).permute(0, 4, 1, 2, 3)


def _merging(dtype: torch.dtype, device: torch.device, in_rows: bool) -> Tensor:
    """(64, 27) of zeros and ones: (phase, coarse voxel) by tap."""
    axis = torch.tensor(_TAPS_OF_AXIS, dtype=torch.float64)
    of_all = torch.einsum("pax,qby,rcz->pqrabcxyz", axis, axis, axis.flip(0) if in_rows else axis).reshape(64, 27)
    return of_all.to(device, dtype)


_kept_merging = cache(_merging)


def interleave(windows: Tensor) -> Tensor:
    """Bring the outputs of all windows to their places on the fine grid.

    Args:
        windows: (B, 8 O, X + 1, Y + 1, Z + 1), channels as in :func:`subpixel_kernel`.

    Returns:
        (B, O, 2X, 2Y, 2Z).
    """
    found = windows.unflatten(1, (2, 2, 2, -1))
    for axis in (-3, -2, -1):
        # The first axis of phases that is left belongs to this axis; window i has the outputs 2i
        # and 2i - 1.
        even, odd = found.unbind(1)
        place, count = even.ndim + axis, even.shape[axis] - 1
        pairs = torch.stack((even.narrow(place, 0, count), odd.narrow(place, 1, count)), dim=place + 1)
        found = pairs.flatten(place, place + 1)
    return found


class _AddInterleaved(torch.autograd.Function):
    """``to`` + :func:`interleave` of ``windows``, in place: one pass over memory."""

    @staticmethod
    def forward(to: Tensor, windows: Tensor) -> Tensor:
        _in_pairs(to).add_(_in_pairs_of_windows(windows))
        return to

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        to, windows = inputs
        ctx.mark_dirty(to)
        ctx.shape, ctx.layout = windows.shape, layout_of(windows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_windows = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        # Outer windows also have outputs beyond the border, which nobody reads.
        of_windows.zero_()
        _in_pairs_of_windows(of_windows).copy_(_in_pairs(gradient))
        return gradient, of_windows


class _AddRows(torch.autograd.Function):
    """Adds to every second row along x and y, in place, the outputs of windows that belong there.

    Channels-last, the outputs 2i - 1 and 2i of all windows of a row make up a row of the fine grid;
    its two ends lie beyond the border.
    """

    @staticmethod
    def forward(to: Tensor, windows: Tensor, phase: int) -> Tensor:
        rows = _rows(to)[:, phase // 2 :: 2, phase % 2 :: 2]
        rows.add_(_rows_of_windows(windows, rows.shape, phase))
        return to

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        to, windows, ctx.phase = inputs
        ctx.mark_dirty(to)
        ctx.shape = windows.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows = _rows(gradient)[:, ctx.phase // 2 :: 2, ctx.phase % 2 :: 2]
        layout = torch.channels_last_3d
        of_windows = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout).zero_()
        _rows_of_windows(of_windows, rows.shape, ctx.phase).copy_(rows)
        return gradient, of_windows, None


def _rows(volume: Tensor) -> Tensor:
    """(B, C, X, Y, Z) channels-last as (B, X, Y, Z C), a view."""
    return volume.permute(0, 2, 3, 4, 1).flatten(3)


def _rows_of_windows(windows: Tensor, shape: Sequence[int], phase: int) -> Tensor:
    """(B, 2 O, X + 1, Y + 1, Z + 1) channels-last as (B, X, Y, 2 Z O), a view: windows of even phases begin at 0, of odd ones at 1."""
    _, x, y, length = shape
    first_x, first_y, end = phase // 2, phase % 2, windows.shape[1] // 2
    return _rows(windows)[:, first_x : first_x + x, first_y : first_y + y, end : end + length]


def _in_pairs(fine: Tensor) -> Tensor:
    """(B, O, 2X, 2Y, 2Z) as (B, O, X, 2, Y, 2, Z, 2), a view."""
    return fine.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))


def _in_pairs_of_windows(windows: Tensor) -> Tensor:
    """(B, 8 O, X + 1, Y + 1, Z + 1) as (B, O, X, 2, Y, 2, Z, 2), a view: the next output is of the next phase and window."""
    batch, channels, *counts = windows.shape
    of_batch, of_channel, *of_axes = windows.stride()
    shape, strides = [batch, channels // 8], [of_batch, of_channel]
    for count, of_axis, phases in zip(counts, of_axes, (4, 2, 1), strict=True):
        shape += [count - 1, 2]
        strides += [of_axis, of_axis + phases * (channels // 8) * of_channel]
    return windows.as_strided(shape, strides)
