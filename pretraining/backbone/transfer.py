"""Weights into a network: strict, with a report of every tensor's fate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretraining.common.errors import InputError


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor.

    Attributes:
        loaded: Taken over as they are.
        adapted: Taken over after a change, and which: a first convolution spread over more input
            channels.
        missing: Tensors of the network that the weights do not hold; they keep their initial
            values.
        unexpected: Tensors of the weights that the network has no place for.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        changes = [f"{name}: {change}" for name, change in self.adapted.items()]
        fates = {"adapted": changes, "missing and left as initialized": self.missing, "unexpected": self.unexpected}
        parts = [f"{len(names)} {fate} ({', '.join(names)})" for fate, names in fates.items() if names]
        return ", ".join([f"{len(self.loaded)} tensors loaded", *parts])


def transfer(
    state: dict[str, Tensor], net: nn.Module, *, may_miss: Collection[str] = (), image_channels: int | None = None
) -> TransferReport:
    """Copy ``state`` into ``net``.

    A convolution trained on one input channel that meets C image channels is repeated over them and
    divided by C, so that C equal channels give the response that one gave. Input channels beyond
    the images start at 0: the network begins as if they were not there.

    Args:
        state: Tensor name → tensor, any floating dtype.
        net: Changed in place, only if everything fits.
        may_miss: Prefixes of tensors that ``state`` need not hold, such as a new segmentation head.
        image_channels: How many of the input channels, from the first, are images; all if left out.

    Raises:
        InputError: If a tensor is missing, unexpected or of another shape: training never starts
            from a silent random part.
    """
    own = net.state_dict()
    missing = tuple(name for name in own if name not in state)
    unexpected = tuple(name for name in state if name not in own)
    if vital := [name for name in missing if not name.startswith(tuple(may_miss))]:
        raise InputError(
            f"the weights lack {len(vital)} tensors of the network, the first is '{vital[0]}'; "
            "name weights of this architecture or change the plan"
        )
    if unexpected:
        raise InputError(
            f"the weights hold {len(unexpected)} tensors that the network lacks, the first is '{unexpected[0]}'; "
            "name weights of this architecture or change the plan"
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
                "name weights of this architecture or change the plan"
            )
        ready[name] = tensor
    with torch.no_grad():
        for name, tensor in ready.items():
            own[name].copy_(tensor)
    return TransferReport(tuple(loaded), adapted, missing, unexpected)


def _spread(tensor: Tensor, target: Tensor, image_channels: int | None) -> tuple[Tensor, str] | None:
    """A convolution of one image channel, or of all, for the inputs of ``target``, and what was done; None if they differ in more."""
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
    # In the target's float32, so that half-precision weights are not rounded twice.
    spread[:, :images] = tensor.to(target) / shares
    return spread, "; ".join(changes)
