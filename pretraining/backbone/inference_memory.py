"""How much memory a forward pass takes, and how large a window may be to fit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import psutil
import torch

from pretraining.backbone.convolutions import SkipConv3x3x3
from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.inference import padded_shape
from pretraining.backbone.unet import UNet
from pretraining.common.byte_sizes import format_bytes
from pretraining.common.errors import InputError

_SINGLE, _HALF = 4, 2
"""Bytes of an activation in float32 and bfloat16."""
_WORKSPACE = 1.15
"""Factor on the activations, for buffers of convolutions, measured."""
_HOLES, _HEAP_BYTES = 3, 2**25
"""So many volumes' worth of memory is held back by glibc's heap, from which volumes below this size
come, measured.
"""
_LIBRARIES = 32 * 2**20
"""Bytes of buffers that do not grow with the window."""
_AVAILABLE = 0.8
"""Share of the free memory that is counted on."""
LARGEST_SIDE = 128
"""Of windows, voxels, as in the paper and in pretraining."""


def peak_bytes(net: FeatureNetwork, shape: Sequence[int], bf16: bool = False) -> int:
    """Peak of one forward pass without gradients, beside weights and input.

    Every convolution holds its input, that input with a border, its output, the skip connections
    that are still to be read and, in the decoder, the level below. A decoder's first one holds
    either the upsampled concatenation, of which trilinear upsampling leaves a layout that is
    copied, or one after the other what its two halves need.

    Args:
        net: The network.
        shape: (X, Y, Z) of the window, voxels, a multiple of the network's.
        bf16: Whether it computes in bfloat16.

    Notes:
        Checked against measured peaks on a CPU
        (``tests/pretraining/backbone/test_inference_memory.py``): 1.0 to 1.35 times as much, up to
        1.7 times for small windows.
    """
    if not isinstance(net, UNet):
        return net.peak_bytes(shape, bf16)  # another network in its place knows itself
    config, shapes, size = net.config, net.tap_shapes(), _HALF if bf16 else _SINGLE
    skips = {level: config.channels(level) * _voxels(shape, level) for level in range(config.poolings)}
    largest = size * config.channels(0) * _voxels(shape, 0)
    peak, copied = 0.0, 0
    for tap, conv in net.convolutions():
        level, stage = shapes[tap][1], tap.split(".")[0]
        voxels, padded = _voxels(shape, level), _voxels(shape, level, border=1)
        held = sum(
            skip for above, skip in skips.items() if (above < level or stage == "bottleneck") and stage != "output"
        )
        live = conv.in_channels * (voxels + padded)
        if stage == "decoder":
            held += config.channels(level + 1) * _voxels(shape, level + 1)
        if isinstance(conv, SkipConv3x3x3):
            held += skips[level]
            if conv.on_coarse_grid(_voxels(shape, level + 1)):
                below = (conv.in_channels - conv.skip_channels) * _voxels(shape, level + 1, border=1)
                live = max(
                    conv.skip_channels * padded, below + 8 * conv.out_channels * _voxels(shape, level + 1, border=0.5)
                )
            elif config.upsampling == "trilinear":
                live += conv.in_channels * padded
        live += conv.out_channels * voxels
        copied += _HALF * conv.weight.numel() if bf16 else 0  # autocast keeps them until it ends
        peak = max(peak, size * (held + live) * _WORKSPACE + copied)
    return int(peak) + _HOLES * min(largest, _HEAP_BYTES) + _LIBRARIES


def window_for(net: FeatureNetwork, shape: Sequence[int], memory_bytes: int, bf16: bool = False) -> int | None:
    """The largest window that fits into memory.

    Args:
        net: The network.
        shape: (X, Y, Z) of the volume, voxels, of any size.
        memory_bytes: For one forward pass.
        bf16: Whether it computes in bfloat16.

    Returns:
        None if the whole volume fits, else the side of windows, voxels, at most ``LARGEST_SIDE``.

    Raises:
        InputError: If even the smallest window does not fit.
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


def window_bytes(net: FeatureNetwork, shape: Sequence[int], side: int, bf16: bool = False) -> int:
    """:func:`peak_bytes` of the windows of a volume of any size."""
    return peak_bytes(net, [min(side, length) for length in padded_shape(net, shape, at_most=side)], bf16)


def available_bytes(device: torch.device) -> int:
    """What a forward pass on ``device`` can count on now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_AVAILABLE * free)


def _voxels(shape: Sequence[int], level: int, border: float = 0) -> int:
    return prod((side >> level) + int(2 * border) for side in shape)
