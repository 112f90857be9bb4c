"""3×3×3 convolution of a volume upsampled by nearest neighbour, computed on the coarse grid.

Along one axis, the window (i - 1, i) of the coarse grid determines two outputs. In each, one of the
three taps falls on one voxel of the window and two on the other:

============== ======== ========
output         i - 1    i
============== ======== ========
even, 2i       w0       w1 + w2
odd, 2i - 1    w0 + w1  w2
============== ======== ========

A single convolution with kernels of 2×2×2 and 8 times as many channels therefore computes all
outputs, with 64 instead of 216 products per coarse voxel and pair of channels, and without the
upsampled volume. The results are equal except for the order of rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.padding import layout_of, pad_by_one


def add_upsampled_convolution(
    to: Tensor, below: Tensor, weight: Tensor, *, padding: Literal["reflect", "zeros"]
) -> Tensor:
    """Add the convolution of an upsampled volume to a tensor.

    Args:
        to: (B, O, 2X, 2Y, 2Z), output of a convolution; overwritten in eager mode.
        below: (B, I, X, Y, Z), upsampled by 2 with nearest neighbour.
        weight: (O, I, 3, 3, 3).
        padding: Values beyond the border of the upsampled volume: mirrored or zeros.

    Returns:
        (B, O, 2X, 2Y, 2Z), ``to`` + conv(pad(upsampled)).
    """
    margin = 1 if padding == "zeros" else 0
    # Reflection at the border of the fine grid repeats the outermost coarse voxel.
    source = below if padding == "zeros" else pad_by_one(below, "replicate")
    if torch.compiler.is_compiling():
        return to + interleave(functional.conv3d(source, subpixel_kernel(weight), padding=margin))
    if _adds_by_rows(to):
        kernels = subpixel_kernel(weight, in_rows=True).split(2 * len(weight))
        for phase, kernel in enumerate(kernels):
            to = _AddRows.apply(to, functional.conv3d(source, kernel, padding=margin), phase)
        return to
    return _AddInterleaved.apply(to, functional.conv3d(source, subpixel_kernel(weight), padding=margin))


def _adds_by_rows(to: Tensor) -> bool:
    """Tell whether to add row by row: long rows are faster on CPUs, one large product on GPUs."""
    return to.device.type == "cpu" and layout_of(to) == torch.channels_last_3d


def subpixel_kernel(weight: Tensor, *, in_rows: bool = False) -> Tensor:
    """Merge the taps that fall on the same coarse voxel.

    Args:
        weight: (O, I, 3, 3, 3).
        in_rows: Whether the odd output of a window precedes its even one along z, as on the fine
            grid.

    Returns:
        (8 O, I, 2, 2, 2); outputs are ordered by (even or odd along x, y, z; output channel).
    """
    out_channels, in_channels = weight.shape[:2]
    # Without autocast, sums of up to eight taps are rounded only once, by the convolution.
    with torch.autocast(weight.device.type, enabled=False):
        taps = weight.permute(0, 2, 3, 4, 1).reshape(out_channels, 27, in_channels)
        # Compilers fold constants themselves, and cannot trace a cache.
        matrix = _merge_matrix if torch.compiler.is_compiling() else _cached_merge_matrix
        merged = torch.matmul(matrix(weight.dtype, weight.device, in_rows), taps)
    merged = merged.view(out_channels, 8, 2, 2, 2, in_channels).transpose(0, 1)
    return merged.reshape(8 * out_channels, 2, 2, 2, in_channels).permute(0, 4, 1, 2, 3)


def _merge_matrix(dtype: torch.dtype, device: torch.device, in_rows: bool) -> Tensor:
    """Return the (64, 27) matrix of zeros and ones from taps to (phase, coarse voxel).

    It is computed on the device: a copy from the host would make the host wait in a compiled step.
    """
    two, three = torch.arange(2, device=device), torch.arange(3, device=device)
    # Tap x of an even output lies in coarse voxel (x + 1) // 2 of its window, else in x // 2.
    axis = ((three + 1 - two[:, None]) // 2)[:, None] == two[:, None]
    last = axis.flip(0) if in_rows else axis
    matrix = (
        axis[:, None, None, :, None, None, :, None, None]
        & axis[None, :, None, None, :, None, None, :, None]
        & last[None, None, :, None, None, :, None, None, :]
    )
    return matrix.reshape(64, 27).to(dtype)


_cached_merge_matrix = cache(_merge_matrix)


def interleave(windows: Tensor) -> Tensor:
    """Rearrange the outputs of all windows on the fine grid.

    Args:
        windows: (B, 8 O, X + 1, Y + 1, Z + 1), channels ordered as in :func:`subpixel_kernel`.

    Returns:
        (B, O, 2X, 2Y, 2Z).
    """
    fine = windows.unflatten(1, (2, 2, 2, -1))
    for axis in (-3, -2, -1):
        # The first remaining phase axis belongs to this axis; window i has outputs 2i and 2i - 1.
        even, odd = fine.unbind(1)
        position, count = even.ndim + axis, even.shape[axis] - 1
        pairs = torch.stack((even.narrow(position, 0, count), odd.narrow(position, 1, count)), dim=position + 1)
        fine = pairs.flatten(position, position + 1)
    return fine


class _AddInterleaved(torch.autograd.Function):
    """Addition of :func:`interleave` of ``windows`` to ``to``, in place and in one pass."""

    @staticmethod
    def forward(to: Tensor, windows: Tensor) -> Tensor:
        _fine_pairs(to).add_(_window_pairs(windows))
        return to

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        to, windows = inputs
        ctx.mark_dirty(to)
        ctx.shape, ctx.layout = windows.shape, layout_of(windows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        window_gradient = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        # Outer windows also have outputs beyond the border, which are unused.
        window_gradient.zero_()
        _window_pairs(window_gradient).copy_(_fine_pairs(gradient))
        return gradient, window_gradient


class _AddRows(torch.autograd.Function):
    """Addition of the outputs of one phase to every second row along x and y, in place.

    In channels-last layout, the outputs 2i - 1 and 2i of all windows in a row form a row of the
    fine grid, whose two ends are beyond the border.
    """

    @staticmethod
    def forward(to: Tensor, windows: Tensor, phase: int) -> Tensor:
        rows = _fine_rows(to)[:, phase // 2 :: 2, phase % 2 :: 2]
        rows.add_(_window_rows(windows, rows.shape, phase))
        return to

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        to, windows, ctx.phase = inputs
        ctx.mark_dirty(to)
        ctx.shape = windows.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows = _fine_rows(gradient)[:, ctx.phase // 2 :: 2, ctx.phase % 2 :: 2]
        layout = torch.channels_last_3d
        window_gradient = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout
        ).zero_()
        _window_rows(window_gradient, rows.shape, ctx.phase).copy_(rows)
        return gradient, window_gradient, None


def _fine_rows(volume: Tensor) -> Tensor:
    """View (B, C, X, Y, Z) channels-last as (B, X, Y, Z C)."""
    return volume.permute(0, 2, 3, 4, 1).flatten(3)


def _window_rows(windows: Tensor, shape: Sequence[int], phase: int) -> Tensor:
    """View (B, 2 O, X + 1, Y + 1, Z + 1) channels-last as (B, X, Y, 2 Z O).

    Windows of even phases start at 0, those of odd phases at 1.
    """
    _, x, y, length = shape
    first_x, first_y, end = phase // 2, phase % 2, windows.shape[1] // 2
    return _fine_rows(windows)[:, first_x : first_x + x, first_y : first_y + y, end : end + length]


def _fine_pairs(fine: Tensor) -> Tensor:
    """View (B, O, 2X, 2Y, 2Z) as (B, O, X, 2, Y, 2, Z, 2)."""
    return fine.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))


def _window_pairs(windows: Tensor) -> Tensor:
    """View (B, 8 O, X + 1, Y + 1, Z + 1) as (B, O, X, 2, Y, 2, Z, 2).

    The second of a pair of outputs belongs to the next phase and the next window.
    """
    batch, channels, *counts = windows.shape
    batch_stride, channel_stride, *axis_strides = windows.stride()
    shape, strides = [batch, channels // 8], [batch_stride, channel_stride]
    for count, axis_stride, phases in zip(counts, axis_strides, (4, 2, 1), strict=True):
        shape += [count - 1, 2]
        strides += [axis_stride, axis_stride + phases * (channels // 8) * channel_stride]
    return windows.as_strided(shape, strides)
