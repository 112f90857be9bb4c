"""Pretrained weights into a segmentation network: found, checked against the plan, copied."""

from __future__ import annotations

import os

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.recipe import Recipe
from pretraining.backbone.statistics import match_architecture
from pretraining.backbone.transfer import TransferReport, transfer
from pretraining.backbone.weights import Weights, find_weights, load_weights
from pretraining.common.errors import InputError


def weights_of(recipe: Recipe) -> tuple[str, Weights]:
    """The weights that ``recipe`` starts from, and where they were found.

    Raises:
        InputError: If they are missing or damaged, or if the file named by the plan is no longer
            the one that was planned with.
    """
    path = find_weights(plan=recipe.weights)
    weights = load_weights(path)
    # Weights named by ANATOMIX_WEIGHTS are the user's wish for this run; the checksum is about the
    # plan's own file.
    if recipe.sha256 and not os.environ.get("ANATOMIX_WEIGHTS") and weights.sha256 != recipe.sha256:
        raise InputError(
            f"{path} has changed since the plan was made (sha256 {weights.sha256}, planned {recipe.sha256}); plan again"
        )
    return str(path), weights


def start_from(weights: Weights, network: AnatomixNetwork, image_channels: int) -> TransferReport:
    """Copy ``weights`` into the backbone of ``network``; only the heads keep their random start.

    Several image channels share the pretrained first convolution, divided by their number. Channels
    beyond, in which a cascade brings the labels of its first stage, start at 0: the network begins
    as if it had the images alone.

    Args:
        weights: Of a backbone with one input channel, or with ``image_channels``.
        network: Changed in place.
        image_channels: Of the dataset; the network's other channels hold labels.

    Raises:
        InputError: If anything but a head is missing, left over or of another shape.
    """
    weights = match_architecture(weights, network.backbone.config)
    state = {f"backbone.{name}": tensor for name, tensor in weights.state.items()}
    return transfer(state, network, may_miss=("decoder.seg_layers.",), image_channels=image_channels)
