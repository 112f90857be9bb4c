"""Memory estimates for a forward pass, and the largest window that fits."""

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
"""Factor on the activations for buffers of convolutions, measured."""
_HOLES, _HEAP_BYTES = 3, 2**25
"""Number of volumes whose memory glibc's heap does not return, and the size below which volumes are
allocated on the heap, measured.
"""
_LIBRARIES = 32 * 2**20
"""Size of buffers that do not depend on the window, bytes."""
_AVAILABLE = 0.8
"""Share of the free memory that a forward pass may use."""
LARGEST_SIDE = 128
"""Largest side of windows, voxels, as in the paper and in pretraining."""


def peak_bytes(net: FeatureNetwork, shape: Sequence[int], bf16: bool = False) -> int:
    """Estimate the peak memory of one forward pass without gradients.

    Each convolution needs its input, its padded input, its output, the skip connections not yet
    read and, in the decoder, the level below. The first convolution of a decoder level needs either
    the upsampled concatenation, which is copied to another layout after trilinear upsampling, or
    the buffers of its two halves one after the other.

    Args:
        net: Network to run.
        shape: (X, Y, Z) of the window, voxels, multiples of ``net.config.multiple``.
        bf16: Whether the network computes in bfloat16.

    Returns:
        Bytes, without weights and input.

    Notes:
        Checked against measured peaks on a CPU
        (``tests/pretraining/backbone/test_inference_memory.py``): 1.0 to 1.35 times as much, up to
        1.7 times for small windows.
    """
    if not isinstance(net, UNet):
        return net.peak_bytes(shape, bf16)
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
        copied += _HALF * conv.weight.numel() if bf16 else 0  # autocast caches converted weights
        peak = max(peak, size * (held + live) * _WORKSPACE + copied)
    return int(peak) + _HOLES * min(largest, _HEAP_BYTES) + _LIBRARIES


def window_for(net: FeatureNetwork, shape: Sequence[int], memory_bytes: int, bf16: bool = False) -> int | None:
    """Find the largest window that fits into memory.

    Args:
        net: Network to run.
        shape: (X, Y, Z) of the volume, voxels, of any size.
        memory_bytes: Available memory for one forward pass.
        bf16: Whether the network computes in bfloat16.

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
        f"the smallest window ({sides[0]} voxels) needs {format_bytes(needed)}B of memory, "
        f"found {format_bytes(memory_bytes)}B; free some memory, or allow more"
    )


def window_bytes(net: FeatureNetwork, shape: Sequence[int], side: int, bf16: bool = False) -> int:
    """Estimate the peak memory for the windows of a volume, see :func:`peak_bytes`.

    Args:
        net: Network to run.
        shape: (X, Y, Z) of the volume, voxels, of any size.
        side: Side of the windows, voxels.
        bf16: Whether the network computes in bfloat16.
    """
    return peak_bytes(net, [min(side, length) for length in padded_shape(net, shape, at_most=side)], bf16)


def available_bytes(device: torch.device) -> int:
    """Return the memory that a forward pass can use at present, with a safety margin.

    Args:
        device: Device of the network.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_AVAILABLE * free)


def _voxels(shape: Sequence[int], level: int, border: float = 0) -> int:
    return prod((side >> level) + int(2 * border) for side in shape)
