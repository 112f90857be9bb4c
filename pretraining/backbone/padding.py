"""Padding of a volume by one voxel for 3×3×3 convolutions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.common.triton_support import can_run_triton, launch

Border = Literal["reflect", "replicate"]
_SPATIAL = (2, 3, 4)
_SHIFTS = {"reflect": 2, "replicate": 1}
"""Distance from a border voxel to the voxel that it copies, voxels."""
_BLOCK = 1024
"""Number of elements per Triton program."""


def pad_by_one(x: Tensor, border: Border) -> Tensor:
    """Pad every spatial axis by one voxel at both ends.

    Args:
        x: (B, C, X, Y, Z), floating point; every spatial axis has at least 2 voxels for
            ``reflect``, 1 for ``replicate``.
        border: ``reflect`` mirrors about the outermost voxel, ``replicate`` repeats it.

    Returns:
        (B, C, X + 2, Y + 2, Z + 2), equal to :func:`torch.nn.functional.pad`, in the memory layout
        of ``x``.

    Notes:
        PyTorch's own padding on CUDA converts channels-last volumes to the contiguous layout, so
        that the convolution must convert them back. Its backward pass uses atomics, whose order
        differs from run to run. Here the interior is copied, then the six faces; the backward pass
        adds the faces to the interior in a fixed order.

        Compilers and tracers get PyTorch's own operation, which they can fuse and export.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return functional.pad(x, (1,) * 6, mode=border)
    return _PadByOne.apply(x, border)


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the memory layout of (B, C, X, Y, Z), also of a view of a larger volume.

    Args:
        x: (B, C, X, Y, Z); with a single channel, the result depends on its stride.
    """
    return torch.channels_last_3d if x.stride(1) == 1 else torch.contiguous_format


class _PadByOne(torch.autograd.Function):
    """Addition of the border."""

    @staticmethod
    def forward(x: Tensor, border: Border) -> Tensor:
        batch, channels, *sides = x.shape
        if border == "reflect" and min(sides) < 2:
            raise ValueError(f"reflection needs at least 2 voxels along every axis, got {tuple(sides)}")
        shape = (batch, channels, *(side + 2 for side in sides))
        padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
        if _can_use_kernel(x):
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
    """Adjoint of :class:`_PadByOne`: add border voxels to the voxels that they copy."""

    @staticmethod
    def forward(padded: Tensor, border: Border) -> Tensor:
        return _fold_in_one_launch(padded, border) if _can_use_kernel(padded) else _fold_by_faces(padded, border)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Border], output: Tensor) -> None:
        ctx.border = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _PadByOne.apply(gradient, ctx.border), None


def _pad_by_faces(x: Tensor, padded: Tensor, border: Border) -> None:
    padded[..., 1:-1, 1:-1, 1:-1] = x
    # One axis after the other, since later faces include edges written by earlier ones.
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
    """Return (face, source) indices in the padded volume for both ends of an axis."""
    shift = _SHIFTS[border]
    return (0, shift), (-1, -1 - shift)


def _can_use_kernel(x: Tensor) -> bool:
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
