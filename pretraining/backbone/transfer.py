"""Strict loading of weights into a network, with a report about every tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretraining.common.errors import InputError


@dataclass(frozen=True)
class TransferReport:
    """Result of :func:`transfer` for every tensor.

    Attributes:
        loaded: Names of tensors that were copied unchanged.
        adapted: Names of tensors that were copied after a change → description of the change.
        missing: Names of tensors that the weights lack; they keep their initial values.
        unexpected: Names of tensors that the network lacks.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        changes = [f"{name}: {change}" for name, change in self.adapted.items()]
        groups = {"adapted": changes, "missing and left as initialized": self.missing, "unexpected": self.unexpected}
        parts = [f"{len(names)} {group} ({', '.join(names)})" for group, names in groups.items() if names]
        return ", ".join([f"{len(self.loaded)} tensors loaded", *parts])


def transfer(
    state: dict[str, Tensor], net: nn.Module, *, may_miss: Collection[str] = (), image_channels: int | None = None
) -> TransferReport:
    """Copy weights into a network.

    A convolution trained on one input channel is repeated over C image channels and divided by C,
    so that C equal channels give the original response. Weights of input channels after the images
    are 0, so that these channels have no effect at first.

    Args:
        state: Tensor name → tensor, any floating dtype.
        net: Network to change in place; unchanged if an error is raised.
        may_miss: Prefixes of tensors that ``state`` may lack, such as a new segmentation head.
        image_channels: Number of input channels, from the first, that are images. Default: all.

    Returns:
        Report about every tensor.

    Raises:
        InputError: If a tensor is missing, unexpected or of another shape, so that no part of the
            network stays random unnoticed.
    """
    own = net.state_dict()
    missing = tuple(name for name in own if name not in state)
    unexpected = tuple(name for name in state if name not in own)
    if required := [name for name in missing if not name.startswith(tuple(may_miss))]:
        raise InputError(
            f"the weights lack {len(required)} tensors of the network, the first is '{required[0]}'; "
            "choose weights of this architecture or change the plan"
        )
    if unexpected:
        raise InputError(
            f"the weights have {len(unexpected)} tensors that the network lacks, the first is '{unexpected[0]}'; "
            "choose weights of this architecture or change the plan"
        )
    loaded: list[str] = []
    adapted: dict[str, str] = {}
    ready: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = own[name]
        if tensor.shape == target.shape:
            loaded.append(name)
        elif spread := _spread(tensor, target, image_channels):
            tensor, adapted[name] = spread
        else:
            raise InputError(
                f"'{name}' has shape {tuple(tensor.shape)} in the weights and {tuple(target.shape)} in the network; "
                "choose weights of this architecture or change the plan"
            )
        ready[name] = tensor
    with torch.no_grad():
        for name, tensor in ready.items():
            own[name].copy_(tensor)
    return TransferReport(tuple(loaded), adapted, missing, unexpected)


def _spread(tensor: Tensor, target: Tensor, image_channels: int | None) -> tuple[Tensor, str] | None:
    """Adapt a convolution to the number of input channels of a target.

    Returns:
        Weights in the shape of ``target`` and a description of the change; None if the shapes
        differ in other axes.
    """
    if not (tensor.ndim == target.ndim == 5 and tensor[:, 0].shape == target[:, 0].shape):
        return None
    images = image_channels or target.shape[1]
    if tensor.shape[1] not in (1, images) or images > target.shape[1]:
        return None
    shares = images // tensor.shape[1]
    changes = [f"1 input channel spread over {images} image channels, divided by {images}"] if shares > 1 else []
    if others := target.shape[1] - images:
        changes.append(f"{others} beyond the image channels at 0")
    spread = torch.zeros_like(target)
    # In the target's float32, since half-precision weights would be rounded twice.
    spread[:, :images] = tensor.to(target) / shares
    return spread, "; ".join(changes)
