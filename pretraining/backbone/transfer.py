"""Weights into a network: strict, with a report of every tensor's fate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretraining.errors import InputError


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor.

    Attributes
    ----------
    loaded : taken over as they are.
    adapted : taken over after a change, e.g. a first convolution spread over more input channels.
    missing : tensors of the network that the weights do not hold; they keep their initial values.
    unexpected : tensors of the weights that the network has no place for.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for fate in ("adapted", "missing", "unexpected"):
            if names := getattr(self, fate):
                parts.append(f"{len(names)} {fate} ({', '.join(names)})")
        return ", ".join(parts)


def transfer(state: dict[str, Tensor], net: nn.Module, *, may_miss: Collection[str] = ()) -> TransferReport:
    """Copy ``state`` into ``net``.

    A convolution trained on one input channel that meets C channels is repeated over them and divided by C, so that
    C equal channels give the response that one gave.

    Parameters
    ----------
    state : tensor name → tensor, any floating dtype.
    net : changed in place, only if everything fits.
    may_miss : prefixes of tensors that ``state`` need not hold, such as a new segmentation head.

    Raises
    ------
    InputError
        If a tensor is missing, unexpected or of another shape: training never starts from a silent random part.
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
    loaded, adapted, ready = [], [], {}
    for name, tensor in state.items():
        target = own[name]
        if tensor.shape == target.shape:
            loaded.append(name)
        elif _spreads(tensor, target):
            # In float32, so that half-precision weights are not rounded twice.
            tensor = (tensor.to(target.dtype) / target.shape[1]).expand(target.shape)
            adapted.append(name)
        else:
            raise InputError(
                f"'{name}' has shape {tuple(tensor.shape)} in the weights and {tuple(target.shape)} in the network; "
                "name weights of this architecture or change the plan"
            )
        ready[name] = tensor
    with torch.no_grad():
        for name, tensor in ready.items():
            own[name].copy_(tensor)
    return TransferReport(tuple(loaded), tuple(adapted), missing, unexpected)


def _spreads(tensor: Tensor, target: Tensor) -> bool:
    """Whether ``tensor`` is a convolution of one input channel and ``target`` the same with several."""
    return tensor.ndim == target.ndim == 5 and tensor.shape[1] == 1 and tensor[:, 0].shape == target[:, 0].shape
