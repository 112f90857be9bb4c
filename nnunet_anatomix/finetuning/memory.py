"""How much memory one training step takes, before any card is asked."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from pretraining.backbone.convolutions import SkipConv3x3x3
from pretraining.backbone.unet import UNet, UNetConfig

GB = 2**30
_HALF, _SINGLE, _INDEX = 2, 4, 8
"""Bytes of autocast's activations, of parameters and logits, of the places that max pooling
remembers.
"""
_PARAMETER_COPIES = 4
"""Weights, gradient and Adam's two moments."""
_LOGIT_COPIES = 5
"""Of the size of the float32 logits: themselves, softmax, one-hot target, cross-entropy and a
gradient.
"""
_TRANSIENT = 1.15
"""Gradients and workspace that live beside the activations."""
_RUNTIME_GB = 0.6
"""Of CUDA's context and the libraries' kernels."""


def activation_bytes(backbone: UNetConfig, patch: Sequence[int], batch: int) -> int:
    """What the forward pass keeps for the backward pass, in 16-bit autocast.

    Every convolution keeps its padded input, its output and what follows normalization and ReLU;
    pooling keeps its result and, of maxima, where they were found. The input of a decoder's first
    convolution is the padded concatenation, or the skip connection and the level below, padded
    each. The features go to the head in float32, which is as much again as their normalization
    would have kept.

    Args:
        backbone: The network.
        patch: (X, Y, Z), voxels, a multiple of the backbone's.
        batch: Patches.
    """
    with torch.device("meta"):
        net = UNet(backbone)
    shapes = net.tap_shapes()
    total = 0
    for tap, conv in net.convolutions():
        level = shapes[tap][1]
        sides = [side // 2**level for side in patch]
        voxels, padded = prod(sides), prod(side + 2 for side in sides)
        inputs = conv.in_channels * padded
        if isinstance(conv, SkipConv3x3x3):
            coarse = [side // 2 for side in sides]
            if conv.on_coarse_grid(batch * prod(coarse)):
                below = conv.in_channels - conv.skip_channels
                inputs = conv.skip_channels * padded + below * prod(side + 2 for side in coarse)
        total += _HALF * (inputs + 2 * conv.out_channels * voxels)
        if level and tap.endswith(".0") and not isinstance(conv, SkipConv3x3x3):
            total += (_HALF + (_INDEX if backbone.pooling == "max" else 0)) * conv.in_channels * voxels
    return batch * total


def training_memory_gb(backbone: UNetConfig, patch: Sequence[int], batch: int, classes: int) -> float:
    """Peak of one training step of :class:`~nnunet_anatomix.finetuning.network.AnatomixNetwork`, in 2^30 bytes.

    Args:
        backbone, patch, batch: As for :func:`activation_bytes`.
        classes: Segmentation heads.

    Notes:
        Checked against measured peaks of real steps on a CPU, in bfloat16
        (``tests/nnunet_anatomix/finetuning/test_memory.py``).
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in UNet(backbone).parameters())
    logits = _SINGLE * batch * classes * prod(patch)
    activations = activation_bytes(backbone, patch, batch)
    return (
        _TRANSIENT * activations + _LOGIT_COPIES * logits + _PARAMETER_COPIES * _SINGLE * parameters
    ) / GB + _RUNTIME_GB
