"""Tuples of one value per axis, with a length known to type checkers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return three values as a tuple of known length.

    Args:
        values: Exactly three, for example the shape of a volume.

    Raises:
        ValueError: If there are fewer or more.
    """
    x, y, z = values
    return x, y, z
