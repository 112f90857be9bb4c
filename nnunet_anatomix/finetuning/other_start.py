"""Weights of other networks to start from: JSON files and checkpoints of nnssl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.finetuning.openmind import read_nnssl
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from pretraining.backbone.external_weights import COUNTER, read_external
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.backbone.transfer import TransferReport, transfer
from pretraining.backbone.weights import tensors_sha256
from pretraining.common.errors import InputError

_NOT_ARCHITECTURE = ("state", "state_key", "strip_prefix", "rename", "spacing_mm")
"""Fields of a description that say where its weights are, or how a dataset is planned."""


@dataclass(frozen=True)
class OtherWeights:
    """Weights of another network.

    Attributes:
        spec: Description of the network.
        state: State dict with the keys of the network; heads and new parts are missing.
        sha256: Digest of the tensors.
        position_grids: Name of a learned position embedding → its (X, Y, Z) tokens.
    """

    spec: NetworkSpec
    state: dict[str, Tensor]
    sha256: str
    position_grids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_other(path: Path) -> OtherWeights:
    """Read the weights of another network; run no code of it.

    Args:
        path: JSON file (see :class:`~pretraining.backbone.network_spec.NetworkSpec`), or a
            checkpoint of nnssl.

    Raises:
        InputError: If the file is missing, damaged or of an unknown architecture.
    """
    if path.suffix == ".json":
        spec, state = read_external(path)
        return OtherWeights(spec, state, tensors_sha256(state))
    spec, state, grids = read_nnssl(path)
    return OtherWeights(spec, state, tensors_sha256(state), grids)


def same_network(one: NetworkSpec, other: NetworkSpec) -> bool:
    """Tell whether two descriptions are of one network, wherever its weights are.

    Args:
        one: Description.
        other: Description.
    """
    default = NetworkSpec(network="", state="")
    neutral = {name: getattr(default, name) for name in _NOT_ARCHITECTURE}
    return replace(one, **neutral) == replace(other, **neutral)


def start_other(weights: OtherWeights, network: OtherNetwork, image_channels: int) -> TransferReport:
    """Copy weights into a network; its head and its new parts keep their random values.

    Channels are treated as by :func:`~.transfer.start_from`.

    Args:
        weights: Weights.
        network: Network, changed in place.
        image_channels: Image channels of the dataset; other channels of the network hold labels.

    Raises:
        InputError: If the plan is for another network, or a tensor is missing, unexpected or of
            another shape.
    """
    if not same_network(weights.spec, network.spec):
        raise InputError(
            f"the weights are for {weights.spec.network} with other settings than the plan, which is for "
            f"{network.spec.network}; plan again with --weights"
        )
    own = network.network.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}
    state = {f"network.{name}": tensor for name, tensor in (counters | weights.state).items()}
    for name, grid in weights.position_grids.items():
        state[f"network.{name}"] = _resize_positions(weights.state[name], grid, own[name].shape[1], network.patch_size)
    new = (f"network.{prefix}" for prefix in weights.spec.new)
    return transfer(state, network, may_miss=("decoder.seg_layers.", *new), image_channels=image_channels)


def _resize_positions(
    positions: Tensor, grid: tuple[int, ...], tokens: int, patch_size: tuple[int, ...] | None
) -> Tensor:
    """Interpolate a position embedding (1, tokens, C) to the grid of another patch, trilinearly."""
    if patch_size is None or positions.shape[1] == tokens:
        return positions
    side = round((prod(patch_size) / tokens) ** (1 / 3))
    size = tuple(extent // side for extent in patch_size)
    volume = positions.float().reshape(1, *grid, -1).movedim(-1, 1)
    return functional.interpolate(volume, size=size, mode="trilinear").movedim(1, -1).reshape(1, prod(size), -1)
