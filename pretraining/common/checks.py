"""Checks of the numbers in a configuration: each error names the field, what was expected, and what was found."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pretraining.common.errors import InputError

Numbers = float | Sequence[float] | None
"""A number, several that must all fit, or None, which passes: a field that is left open."""


def check_within(interval: str, /, **fields: Numbers) -> None:
    """Refuse numbers outside an interval; NaN lies in none.

    Args:
        interval: As in mathematics: ``[0, 1)`` holds 0 but not 1. ``inf`` belongs to none, so ``[0,
            inf)`` wants finite numbers.
        fields: Name to value.

    Raises:
        InputError: For the first field that has a number outside.
    """
    wanted = _interval(interval)
    for name, value in fields.items():
        if value is None:
            continue
        numbers, expected = (value, "numbers") if isinstance(value, Sequence) else ((value,), "a number")
        if not all(map(wanted.holds, numbers)):
            raise InputError(f"{name}: expected {expected} {wanted.words}, found {value}")


def check_probability(**fields: Numbers) -> None:
    """Refuse what is no probability or share: numbers outside [0, 1].

    Raises:
        InputError: As :func:`check_within`.
    """
    check_within("[0, 1]", **fields)


def check_positive(**fields: Numbers) -> None:
    """Refuse numbers that are not above 0, or not finite.

    Raises:
        InputError: As :func:`check_within`.
    """
    check_within("(0, inf)", **fields)


def check_not_negative(**fields: Numbers) -> None:
    """Refuse numbers below 0, or not finite.

    Raises:
        InputError: As :func:`check_within`.
    """
    check_within("[0, inf)", **fields)


def check_count(**fields: Numbers) -> None:
    """Refuse numbers of things below 1, or not finite.

    Raises:
        InputError: As :func:`check_within`.
    """
    check_within("[1, inf)", **fields)


def check_range(interval: str = "(-inf, inf)", /, **fields: Sequence[float]) -> None:
    """Refuse what is no range: two numbers of an interval, the lower one first; they may be equal.

    Args:
        interval: In which both must lie, as for :func:`check_within`.
        fields: Name to (low, high).

    Raises:
        InputError: For the first field that is none.
    """
    wanted = _interval(interval)
    for name, value in fields.items():
        if len(value) != 2 or not all(map(wanted.holds, value)) or value[0] > value[1]:
            raise InputError(
                f"{name}: expected a range (low, high) of numbers {wanted.words}, the lower one first, found {value}"
            )


def check_choice(known: Collection[Any], /, **fields: Any) -> None:
    """Refuse values that are none of those known.

    Raises:
        InputError: For the first field that has another.
    """
    for name, value in fields.items():
        if value not in known:
            raise InputError(f"{name}: expected one of {', '.join(map(repr, known))}, found {value!r}")


@dataclass(frozen=True)
class _Interval:
    low: float
    high: float
    holds_low: bool
    holds_high: bool
    words: str

    def holds(self, number: float) -> bool:
        above = self.low <= number if self.holds_low else self.low < number
        return above and (number <= self.high if self.holds_high else number < self.high)


@lru_cache
def _interval(text: str) -> _Interval:
    low, high = map(float, text[1:-1].split(","))
    holds_low, holds_high = text[0] == "[", text[-1] == "]"
    words = f"in {text}"
    if low == -math.inf and high == math.inf:
        words = "below infinity"
    elif high == math.inf:
        words = f"of at least {low:g}" if holds_low else f"above {low:g}"
    return _Interval(low, high, holds_low, holds_high, words)
