"""Data-parallel training in several processes, which torchrun starts.

Batch statistics are per label map, in one process as in several. Dividing the label maps of a step
among ranks therefore changes only the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Import it now: later, its default arguments would keep the process group and gloo's threads alive.
import torch.distributed.nn
from torch import Tensor, nn

from pretraining.common.device import local_rank

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""Time that a rank waits for the others before the job ends with an error."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Position of this process among those that train together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, if any; leave the group at the end.

    Args:
        device: Device of the training.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group(_backend(device), timeout=COLLECTIVE_TIMEOUT)
    try:
        yield Ranks(rank=dist.get_rank(), world=world, local_rank=local_rank())
    finally:
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    """Select how processes exchange tensors: NCCL between GPUs, else gloo.

    NCCL refuses processes that share a GPU, which keeps it busy where the host is the limit. Host
    tensors use gloo on any machine, so that hosts can agree without waiting for devices.
    """
    shared = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()
    return "gloo" if device.type != "cuda" or shared else "cpu:gloo,cuda:nccl"


def average_gradients(parameters: list[nn.Parameter], ranks: Ranks, *others: Tensor) -> None:
    """Replace gradients by their means over the ranks, in one message.

    Args:
        parameters: Parameters whose ``grad`` is averaged.
        ranks: Processes that train together.
        *others: Further float32 tensors to replace by their means, in the same message.
    """
    if ranks.world == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [*gradients, *others]
    message = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(message)
    message /= ranks.world
    for part, mean in zip(parts, message.split([part.numel() for part in parts]), strict=True):
        part.copy_(mean.view_as(part))


def from_first_rank(value: float, ranks: Ranks) -> float:
    """Return the first rank's ``value`` on every rank; waits for its host, never for a device."""
    if ranks.world == 1:
        return value
    message = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(message, src=0)
    return message.item()


def average_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Replace the running statistics of batch normalization by their means over the ranks."""
    if ranks.world > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= ranks.world


def mean_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """Return the mean of each value over the ranks."""
    if ranks.world > 1:
        dist.all_reduce(values)
        values /= ranks.world
    return values


def scale_bn_momentum(model: nn.Module, ranks: Ranks) -> None:
    """Compound the BatchNorm momentum over ranks.

    Running statistics then decay per step as in one process, which sees ``world`` times as many
    label maps.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum:
            module.momentum = 1 - (1 - module.momentum) ** ranks.world
