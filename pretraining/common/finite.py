"""Results are looked at before success is said: a network or a solver that computed NaN has computed nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pretraining.common.errors import CommandFailed

if TYPE_CHECKING:
    from torch import Tensor


class NotFinite(CommandFailed, ValueError):
    """A result that holds NaN or infinity."""


def require_finite(results: Mapping[str, Tensor] | Tensor, what: str) -> None:
    """Refuse results that hold NaN or infinity.

    Args:
        results: A tensor, or names to tensors; whole numbers always pass.
        what: Begins the message: ``features``, ``displacement field``, ...

    Raises:
        NotFinite: Saying how many values of how many, and of which tensor.
    """
    for name, tensor in results.items() if isinstance(results, Mapping) else [("", results)]:
        if not tensor.is_floating_point():
            continue
        wrong = 0
        # In parts: a mask of all of it would take a quarter as much memory again.
        for part in tensor.flatten().split(2**24) if tensor.is_contiguous() else tensor:
            wrong += part.numel() - int(part.isfinite().sum())
        if wrong:
            where = f" of '{name}'" if name else ""
            raise NotFinite(
                f"{what}: {wrong:,} of {tensor.numel():,} values{where} are NaN or infinite; nothing is written"
            )
