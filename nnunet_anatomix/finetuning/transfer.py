"""Transfer of pretrained weights into a segmentation network, checked against the plan."""

from __future__ import annotations

import os

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_start import OtherWeights, read_other, start_other
from nnunet_anatomix.finetuning.recipe import Recipe
from nnunet_anatomix.finetuning.start_kind import check_trust, is_other
from pretraining.backbone.find_weights import find_weights, resolve_weights
from pretraining.backbone.statistics import match_architecture
from pretraining.backbone.transfer import TransferReport, transfer
from pretraining.backbone.weights import Weights, load_weights
from pretraining.common.errors import InputError


def load_initial_weights(recipe: Recipe) -> tuple[str, Weights | OtherWeights]:
    """Load the weights that a recipe starts from.

    Args:
        recipe: Recipe of the plan.

    Returns:
        Path of the file, and the weights.

    Raises:
        InputError: If they are missing or damaged, or if the file that the plan names has changed
            since planning.
    """
    check_trust(resolve_weights(plan=recipe.weights)[1])
    path = find_weights(plan=recipe.weights)
    weights = read_other(path) if is_other(path) else load_weights(path)
    # ANATOMIX_WEIGHTS replaces the weights for this run; the checksum belongs to the plan's file.
    if recipe.sha256 and not os.environ.get("ANATOMIX_WEIGHTS") and weights.sha256 != recipe.sha256:
        raise InputError(
            f"{path} has changed since the plan was made (sha256 {weights.sha256}, planned {recipe.sha256}); plan again"
        )
    return str(path), weights


def start_from(
    weights: Weights | OtherWeights, network: AnatomixNetwork | OtherNetwork, image_channels: int
) -> TransferReport:
    """Copy ``weights`` into the body of ``network``; only new parts keep their random weights.

    Every image channel gets the pretrained first convolution, divided by the number of image
    channels. Further channels, which hold the labels of a cascade's previous stage, start at 0: at
    first they do not affect the output.

    Args:
        weights: Weights of a network with one input channel, or with ``image_channels``.
        network: Network, changed in place.
        image_channels: Image channels of the dataset; other channels of the network hold labels.

    Raises:
        InputError: If the weights are for another kind of network, or a tensor other than a head's
            is missing, unexpected or of another shape.
    """
    if isinstance(weights, OtherWeights) and isinstance(network, OtherNetwork):
        return start_other(weights, network, image_channels)
    if isinstance(weights, OtherWeights) or isinstance(network, OtherNetwork):
        theirs = weights.spec.network if isinstance(weights, OtherWeights) else "our backbone"
        planned = network.spec.network if isinstance(network, OtherNetwork) else "our backbone"
        raise InputError(f"the weights are for {theirs}, the plan is for {planned}; plan with --weights")
    weights = match_architecture(weights, network.backbone.config)
    state = {f"backbone.{name}": tensor for name, tensor in weights.state.items()}
    return transfer(state, network, may_miss=("decoder.seg_layers.",), image_channels=image_channels)
