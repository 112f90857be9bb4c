"""Which statistics a batch-norm network normalizes with: running averages of its training, or those of each scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import Weights, tensors_sha256

Statistics = Literal["running", "own"]
DEFAULT: Statistics = "running"
"""As the networks were evaluated when they were trained."""


def match_architecture(weights: Weights, architecture: UNetConfig) -> Weights:
    """The weights with own statistics where ``architecture`` has instance normalization in place of their batch normalization."""
    changes = weights.architecture.norm == "batch" and architecture.norm == "instance" and architecture.norm_affine
    return with_statistics(weights, "own") if changes else weights


def with_statistics(weights: Weights, statistics: Statistics) -> Weights:
    """The same weights, normalizing each scan with the given statistics.

    Args:
        weights: Of any UNet. Instance normalization always uses a scan's own statistics, and such
            weights are returned as they are.
        statistics: ``running`` keeps batch normalization as it was evaluated in training. ``own``
            turns it into instance normalization with the same scale and shift.

    Returns:
        ``weights`` itself for ``running``; otherwise weights of the architecture with
        ``norm="instance"`` and ``norm_affine=True``.

    Notes:
        Running averages are means over many appearances and fit none of them. A scan's own
        statistics fit its contrast, but depend on what else the window shows.
    """
    architecture = weights.architecture
    if statistics == "running" or architecture.norm == "instance":
        return weights
    dropped = ("running_mean", "running_var", "num_batches_tracked")
    state = {name: tensor for name, tensor in weights.state.items() if not name.endswith(dropped)}
    return Weights(replace(architecture, norm="instance", norm_affine=True), state, weights.card, tensors_sha256(state))
