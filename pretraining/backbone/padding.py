"""A border of one voxel around a volume, as a convolution of 3×3×3 reads it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.common.triton_support import can_run_triton, launch

Border = Literal["reflect", "replicate"]
_SPATIAL = (2, 3, 4)
_SHIFTS = {"reflect": 2, "replicate": 1}
"""How much further inside, along an axis, what the border repeats lies."""
_BLOCK = 1024
"""Elements of one of Triton's programs."""


def pad_by_one(x: Tensor, border: Border) -> Tensor:
    """Add one voxel at both ends of every spatial axis.

    Args:
        x: (B, C, X, Y, Z), floating point; every spatial axis has at least 2 voxels for
            ``reflect``, 1 for ``replicate``.
        border: ``reflect`` mirrors about the outermost voxel, ``replicate`` repeats it.

    Returns:
        (B, C, X + 2, Y + 2, Z + 2), equal to :func:`torch.nn.functional.pad`, in the memory layout
        of ``x``.

    Notes:
        PyTorch's own padding on CUDA converts channels-last volumes to the other layout, so that
        the convolution converts them back, and its backward pass adds with atomics, in an order
        that changes from run to run. Here the interior is copied and the six faces after it; the
        backward pass folds the faces back in a fixed order.

        Compilers and tracers see PyTorch's own operation, which they know how to fuse and to
        export.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return functional.pad(x, (1,) * 6, mode=border)
    return _PadByOne.apply(x, border)


def layout_of(x: Tensor) -> torch.memory_format:
    """Layout of (B, C, X, Y, Z), also of a part of a larger volume; of a single channel, whatever its strides say."""
    return torch.channels_last_3d if x.stride(1) == 1 else torch.contiguous_format


class _PadByOne(torch.autograd.Function):
    """Adds the border."""

    @staticmethod
    def forward(x: Tensor, border: Border) -> Tensor:
        batch, channels, *sides = x.shape
        if border == "reflect" and min(sides) < 2:
            raise ValueError(f"reflection needs at least 2 voxels along every axis, got {tuple(sides)}")
        shape = (batch, channels, *(side + 2 for side in sides))
        padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
        if _in_one_launch(x):
            _pad_in_one_launch(x, padded, border)
        else:
            _pad_by_faces(x, padded, border)
        return padded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Border], output: Tensor) -> None:
        ctx.border = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Fold.apply(gradient, ctx.border), None


class _Fold(torch.autograd.Function):
    """Adds what lies on the border to the voxels that it repeats, and takes it off: the adjoint of :class:`_PadByOne`."""

    @staticmethod
    def forward(padded: Tensor, border: Border) -> Tensor:
        return _fold_in_one_launch(padded, border) if _in_one_launch(padded) else _fold_by_faces(padded, border)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Border], output: Tensor) -> None:
        ctx.border = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _PadByOne.apply(gradient, ctx.border), None


def _pad_by_faces(x: Tensor, padded: Tensor, border: Border) -> None:
    padded[..., 1:-1, 1:-1, 1:-1] = x
    # Axis after axis: a later face includes the edges that earlier ones wrote.
    for axis in _SPATIAL:
        for face, source in _faces(border):
            padded.select(axis, face).copy_(padded.select(axis, source))


def _fold_by_faces(padded: Tensor, border: Border) -> Tensor:
    folded = padded.clone()
    for axis in reversed(_SPATIAL):
        for face, source in _faces(border):
            folded.select(axis, source).add_(folded.select(axis, face))
    return folded[..., 1:-1, 1:-1, 1:-1]


def _faces(border: Border) -> tuple[tuple[int, int], tuple[int, int]]:
    """Per end of an axis: index of the face and of the voxels that it repeats, in the padded volume."""
    shift = _SHIFTS[border]
    return (0, shift), (-1, -1 - shift)


def _in_one_launch(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.dtype in (torch.float32, torch.float16, torch.bfloat16) and can_run_triton(x.device)


def _pad_in_one_launch(x: Tensor, padded: Tensor, border: Border) -> None:
    from pretraining.backbone import padding_kernel

    batch, channels, *sides = x.shape
    grid = (batch * (sides[0] + 2) * (sides[1] + 2), -(-(sides[2] + 2) * channels // _BLOCK))
    dense = x.contiguous(memory_format=torch.channels_last_3d)
    launch(
        padding_kernel.pad,
        grid,
        dense,
        padded,
        *sides[:2],
        sides[2] * channels,
        channels,
        _SHIFTS[border],
        block=_BLOCK,
    )


def _fold_in_one_launch(padded: Tensor, border: Border) -> Tensor:
    from pretraining.backbone import padding_kernel

    batch, channels, *outer = padded.shape
    sides = [side - 2 for side in outer]
    dense = padded.contiguous(memory_format=torch.channels_last_3d)
    shape, layout = (batch, channels, *sides), torch.channels_last_3d
    folded = torch.empty(shape, dtype=padded.dtype, device=padded.device, memory_format=layout)
    grid = (batch * sides[0] * sides[1], -(-sides[2] * channels // _BLOCK))
    launch(
        padding_kernel.fold,
        grid,
        dense,
        folded,
        *sides[:2],
        sides[2] * channels,
        channels,
        _SHIFTS[border],
        block=_BLOCK,
    )
    return folded
