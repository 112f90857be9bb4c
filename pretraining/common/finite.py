"""Check of results for NaN and infinity before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pretraining.common.errors import CommandFailed

if TYPE_CHECKING:
    from torch import Tensor


class NotFinite(CommandFailed, ValueError):
    """A result that contains NaN or infinity."""


def require_finite(results: Mapping[str, Tensor] | Tensor, what: str) -> None:
    """Refuse results that contain NaN or infinity.

    Args:
        results: Tensor, or names to tensors; integer tensors always pass.
        what: Name of the results for the message: ``features``, ``displacement field``, ...

    Raises:
        NotFinite: If a value is NaN or infinite; the message gives their number and the tensor.
    """
    for name, tensor in results.items() if isinstance(results, Mapping) else [("", results)]:
        if not tensor.is_floating_point():
            continue
        wrong = 0
        # In chunks: a mask of the whole tensor would need a quarter of its memory.
        for part in tensor.flatten().split(2**24) if tensor.is_contiguous() else tensor:
            wrong += part.numel() - int(part.isfinite().sum())
        if wrong:
            where = f" of '{name}'" if name else ""
            raise NotFinite(
                f"{what}: {wrong:,} of {tensor.numel():,} values{where} are NaN or infinite; nothing is written"
            )
