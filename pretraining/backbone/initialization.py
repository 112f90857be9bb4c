"""Networks that start from a seed, without reading the global random state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, nn

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class _Resets(Protocol):
    """A module that sets its own start: normalizations, and ours whose start is not random."""

    def reset_parameters(self) -> None: ...


def build(construct: Callable[[], Module], generator: Generator) -> Module:
    """Construct a module on the CPU with Kaiming-normal weights (App.

    B.3), zero biases and fresh normalizations.

    Args:
        construct: Makes the module; its own initialization is not run.
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
