"""Analytic estimate of the memory that one training step takes; needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from pretraining.backbone.convolutions import SkipConv3x3x3
from pretraining.backbone.unet import UNet, UNetConfig

GB = 2**30
_HALF, _SINGLE, _INDEX = 2, 4, 8
"""Bytes per autocast activation, per parameter or logit, and per index stored by max pooling."""
_PARAMETER_COPIES = 4
"""Weights, gradient and Adam's two moments."""
_LOGIT_COPIES = 5
"""Float32 tensors of the logits' size: logits, softmax, one-hot target, cross-entropy, gradient."""
_TRANSIENT = 1.15
"""Factor for gradients and workspace that exist at the same time as the activations."""
_RUNTIME_GB = 0.6
"""Memory of the CUDA context and the libraries' kernels, 2^30 bytes."""


def activation_bytes(backbone: UNetConfig, patch: Sequence[int], batch: int) -> int:
    """Return the bytes that the forward pass stores for the backward pass, in 16-bit autocast.

    Every convolution stores its padded input, its output and the result of normalization and ReLU.
    Pooling stores its result and, for max pooling, the indices of the maxima. The input of a
    decoder's first convolution is the padded concatenation, or the skip connection and the coarser
    level, each padded. The head takes the features in float32, which costs as much as their
    normalization would have stored.

    Args:
        backbone: Architecture.
        patch: (X, Y, Z), voxels; multiples of the backbone's side unit.
        batch: Patches per step.
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
    """Estimate the peak memory of one training step of ``AnatomixNetwork``, in 2^30 bytes.

    Args:
        backbone: Architecture.
        patch: (X, Y, Z), voxels; multiples of the backbone's side unit.
        batch: Patches per step.
        classes: Output channels of the segmentation head.

    Notes:
        Checked against measured peaks of real steps on a CPU, in bfloat16
        (``tests/nnunet_anatomix/finetuning/test_memory.py``).
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in UNet(backbone).parameters())
    return step_memory_gb(activation_bytes(backbone, patch, batch), parameters, batch * classes * prod(patch))


def step_memory_gb(activations: float, parameters: int, logits: int) -> float:
    """Estimate the peak memory of one training step from its parts, in 2^30 bytes.

    Args:
        activations: Bytes that are stored for the backward pass.
        parameters: Number of parameters.
        logits: Number of values of the network's output.
    """
    return (
        _TRANSIENT * activations + _LOGIT_COPIES * _SINGLE * logits + _PARAMETER_COPIES * _SINGLE * parameters
    ) / GB + _RUNTIME_GB
