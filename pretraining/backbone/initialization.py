"""Initialization of networks from a generator, independent of the global random state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, nn

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class _Resets(Protocol):
    """Module with its own initialization: normalizations, and modules without random weights."""

    def reset_parameters(self) -> None: ...


def build(construct: Callable[[], Module], generator: Generator) -> Module:
    """Construct a module on the CPU with Kaiming-normal weights and zero biases (App. B.3).

    Normalizations get their default values.

    Args:
        construct: Function that returns the module; its own initialization is skipped.
        generator: Sole source of randomness, on the CPU.
    """
    with torch.device("meta"):
        module = construct()
    module = module.to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, _Resets):
            part.reset_parameters()
    return module
