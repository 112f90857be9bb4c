"""How much memory a forward pass takes, and how large a window may be to fit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import psutil
import torch

from pretraining.backbone.unet import UNet
from pretraining.byte_sizes import format_bytes
from pretraining.errors import InputError
from pretraining.inference import padded_shape

_SINGLE, _HALF = 4, 2
"""Bytes of an activation in float32 and bfloat16."""
_WORKSPACE = {_SINGLE: 1.15, _HALF: 1.25}
"""Of convolutions and of what the allocator holds back, beside the activations, measured."""
_LIBRARIES = 32 * 2**20
"""Bytes of buffers that do not grow with the window."""
_AVAILABLE = 0.8
"""Share of the free memory that is counted on."""
LARGEST_SIDE = 128
"""Of windows, voxels, as in the paper and in pretraining."""


def peak_bytes(net: UNet, shape: Sequence[int], bf16: bool = False) -> int:
    """Peak of one forward pass without gradients, beside weights and input.

    Every convolution holds its input, that input with a border, its output, all skip connections so far and, in the decoder, what was
    upsampled; trilinear upsampling leaves a layout that convolutions copy.

    Parameters
    ----------
    net : the network.
    shape : (X, Y, Z) of the window, voxels, a multiple of the network's.
    bf16 : whether it computes in bfloat16.

    Notes
    -----
    Checked against measured peaks on a CPU (``tests/pretraining/test_inference_memory.py``): 1.0 to 1.3 times as much.
    """
    if not isinstance(net, UNet):
        return net.peak_bytes(shape, bf16)  # another network in its place knows itself
    config, shapes, size = net.config, net.tap_shapes(), _HALF if bf16 else _SINGLE
    skips = {level: config.channels(level) * _voxels(shape, level) for level in range(config.poolings)}
    peak, copied = 0.0, 0
    for tap, conv in net.convolutions():
        level, stage = shapes[tap][1], tap.split(".")[0]
        held = sum(skip for above, skip in skips.items() if above < level or stage in ("decoder", "output"))
        if stage == "decoder":
            held += config.channels(level + 1) * _voxels(shape, level + 1)
        inputs = _voxels(shape, level) + (2 if config.upsampling == "trilinear" else 1) * _voxels(shape, level, border=1)
        live = conv.in_channels * inputs + conv.out_channels * _voxels(shape, level)
        copied += _HALF * conv.weight.numel() if bf16 else 0  # autocast keeps them until it ends
        peak = max(peak, size * (held + live) * _WORKSPACE[size] + copied)
    return int(peak) + _LIBRARIES


def window_for(net: UNet, shape: Sequence[int], memory_bytes: int, bf16: bool = False) -> int | None:
    """The largest window that fits into memory.

    Parameters
    ----------
    net : the network.
    shape : (X, Y, Z) of the volume, voxels, of any size.
    memory_bytes : for one forward pass.
    bf16 : whether it computes in bfloat16.

    Returns
    -------
    None if the whole volume fits, else the side of windows, voxels, at most ``LARGEST_SIDE``.

    Raises
    ------
    InputError
        If even the smallest window does not fit.
    """
    if peak_bytes(net, padded_shape(net, shape), bf16) <= memory_bytes:
        return None
    sides = range(net.config.min_side, max(LARGEST_SIDE, net.config.min_side) + 1, net.config.multiple)
    for side in reversed(sides):
        needed = window_bytes(net, shape, side, bf16)
        if needed <= memory_bytes:
            return side
    raise InputError(
        f"the smallest window ({sides[0]} voxels) needs {format_bytes(needed)}B of memory, but there is {format_bytes(memory_bytes)}B; "
        "free some, or name more"
    )


def window_bytes(net: UNet, shape: Sequence[int], side: int, bf16: bool = False) -> int:
    """:func:`peak_bytes` of the windows of a volume of any size."""
    return peak_bytes(net, [min(side, length) for length in padded_shape(net, shape, at_most=side)], bf16)


def available_bytes(device: torch.device) -> int:
    """What a forward pass on ``device`` can count on now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_AVAILABLE * free)


def _voxels(shape: Sequence[int], level: int, border: int = 0) -> int:
    return prod((side >> level) + 2 * border for side in shape)
