"""Checks of numbers in a configuration.

Each error names the field, the expected values and the value found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pretraining.common.errors import InputError

Numbers = float | Sequence[float] | None
"""A number, several numbers that must all pass, or None (an unset field), which always passes."""


def check_within(interval: str, /, **fields: Numbers) -> None:
    """Refuse numbers outside an interval; NaN is outside every interval.

    Args:
        interval: Interval in mathematical notation: ``[0, 1)`` contains 0 but not 1. No interval
            contains ``inf``, so ``[0, inf)`` requires finite numbers.
        **fields: Name to value.

    Raises:
        InputError: For the first field with a number outside.
    """
    allowed = _parse_interval(interval)
    for name, value in fields.items():
        if value is None:
            continue
        numbers, expected = (value, "numbers") if isinstance(value, Sequence) else ((value,), "a number")
        if not all(map(allowed.contains, numbers)):
            raise InputError(f"{name}: expected {expected} {allowed.description}, found {value}")


def check_probability(**fields: Numbers) -> None:
    """Refuse numbers outside [0, 1], which are not probabilities or shares.

    Args:
        **fields: Name to value.

    Raises:
        InputError: For the first field with a number outside.
    """
    check_within("[0, 1]", **fields)


def check_positive(**fields: Numbers) -> None:
    """Refuse numbers that are not above 0 and finite.

    Args:
        **fields: Name to value.

    Raises:
        InputError: For the first field with a number outside.
    """
    check_within("(0, inf)", **fields)


def check_not_negative(**fields: Numbers) -> None:
    """Refuse numbers that are not at least 0 and finite.

    Args:
        **fields: Name to value.

    Raises:
        InputError: For the first field with a number outside.
    """
    check_within("[0, inf)", **fields)


def check_count(**fields: Numbers) -> None:
    """Refuse counts that are not at least 1 and finite.

    Args:
        **fields: Name to value.

    Raises:
        InputError: For the first field with a number outside.
    """
    check_within("[1, inf)", **fields)


def check_range(interval: str = "(-inf, inf)", /, **fields: Sequence[float]) -> None:
    """Refuse values that are not a range: two numbers of an interval, low <= high.

    Args:
        interval: Interval that contains both numbers, see :func:`check_within`.
        **fields: Name to (low, high).

    Raises:
        InputError: For the first field that is not a range.
    """
    allowed = _parse_interval(interval)
    for name, value in fields.items():
        if len(value) != 2 or not all(map(allowed.contains, value)) or value[0] > value[1]:
            raise InputError(
                f"{name}: expected a range (low, high) of numbers {allowed.description}, the lower one first, "
                f"found {value}"
            )


def check_choice(known: Collection[Any], /, **fields: Any) -> None:
    """Refuse values that are not among the known ones.

    Args:
        known: Allowed values.
        **fields: Name to value.

    Raises:
        InputError: For the first field with another value.
    """
    for name, value in fields.items():
        if value not in known:
            raise InputError(f"{name}: expected one of {', '.join(map(repr, known))}, found {value!r}")


@dataclass(frozen=True)
class _Interval:
    low: float
    high: float
    includes_low: bool
    includes_high: bool
    description: str

    def contains(self, number: float) -> bool:
        above = self.low <= number if self.includes_low else self.low < number
        return above and (number <= self.high if self.includes_high else number < self.high)


@lru_cache
def _parse_interval(text: str) -> _Interval:
    low, high = map(float, text[1:-1].split(","))
    includes_low, includes_high = text[0] == "[", text[-1] == "]"
    description = f"in {text}"
    if low == -math.inf and high == math.inf:
        description = "below infinity"
    elif high == math.inf:
        description = f"of at least {low:g}" if includes_low else f"above {low:g}"
    return _Interval(low, high, includes_low, includes_high, description)
