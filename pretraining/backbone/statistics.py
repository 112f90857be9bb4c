"""Choice of statistics for batch normalization: running averages, or those of each scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from pretraining.backbone.instance_norm import InstanceNorm
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import Weights, tensors_sha256

Statistics = Literal["running", "own"]
DEFAULT: Statistics = "running"
"""Default statistics, with which the networks were evaluated in training."""


def match_architecture(weights: Weights, architecture: UNetConfig) -> Weights:
    """Convert batch normalization to instance normalization if an architecture requires it.

    Args:
        weights: Weights to convert.
        architecture: Architecture of the network that loads them.

    Returns:
        Weights with statistics of each scan if only ``architecture`` has instance normalization;
        otherwise ``weights``.
    """
    changes = weights.architecture.norm == "batch" and architecture.norm == "instance" and architecture.norm_affine
    return with_statistics(weights, "own") if changes else weights


def with_statistics(weights: Weights, statistics: Statistics) -> Weights:
    """Select the statistics with which weights normalize a scan.

    Args:
        weights: Weights of any UNet. Those with instance normalization, which always uses the
            statistics of each scan, are returned unchanged.
        statistics: ``running`` keeps batch normalization with running averages. ``own`` converts it
            to instance normalization with the same scale and shift.

    Returns:
        ``weights`` itself for ``running``; otherwise weights of the architecture with
        ``norm="instance"`` and ``norm_affine=True``.

    Notes:
        Running averages are means over many appearances and match none exactly. A scan's own
        statistics match its contrast, but depend on the rest of the window.
    """
    architecture = weights.architecture
    if statistics == "running" or architecture.norm == "instance":
        return weights
    dropped = ("running_mean", "running_var", "num_batches_tracked")
    state = {name: tensor for name, tensor in weights.state.items() if not name.endswith(dropped)}
    return Weights(replace(architecture, norm="instance", norm_affine=True), state, weights.card, tensors_sha256(state))


def use_running_averages(network: UNet) -> None:
    """Convert affine instance normalization to batch normalization, in place.

    Scale and shift remain the same parameters, so that an optimizer still finds them. Running
    averages begin at mean 0 and variance 1.

    Args:
        network: UNet with affine instance normalization.
    """
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, InstanceNorm):
                batch = nn.BatchNorm3d(norm.num_features, eps=norm.eps).to(norm.weight)
                batch.weight, batch.bias = norm.weight, norm.bias
                setattr(parent, name, batch.train(norm.training))
    network.config = replace(network.config, norm="batch", norm_affine=False)
