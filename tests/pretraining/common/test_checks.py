"""Numbers out of range give one line with the field, the expected values and the value found."""

from __future__ import annotations

import math

import pytest

from pretraining.common.checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_probability,
    check_range,
    check_within,
)
from pretraining.common.errors import InputError


@pytest.mark.parametrize(
    ("check", "passes", "fails", "words"),
    [
        (check_probability, (0, 0.3, 1, 1.0), (-1e-9, 1.0001), "in [0, 1]"),
        (check_positive, (1e-9, 7), (0, -1, math.inf), "above 0"),
        (check_not_negative, (0, 0.0, 7), (-1e-9, math.inf), "of at least 0"),
        (check_count, (1, 2**70), (0, 0.5, -3, math.inf), "of at least 1"),
        (lambda **fields: check_within("[0, 1)", **fields), (0, 0.999), (-0.1, 1), "in [0, 1)"),
        (lambda **fields: check_within("(0, 1]", **fields), (1e-9, 1), (0, 1.1), "in (0, 1]"),
    ],
)
def test_each_check_has_its_borders(check, passes, fails, words):
    check(first=passes[0], second=passes, third=list(passes), fourth=None, fifth=())
    for number in (*fails, math.nan, -math.inf):
        with pytest.raises(InputError) as caught:
            check(good=passes[0], bad=number)
        assert str(caught.value) == f"bad: expected a number {words}, found {number}"
        with pytest.raises(InputError) as caught:
            check(bad=(*passes, number))
        assert str(caught.value) == f"bad: expected numbers {words}, found {(*passes, number)}"


def test_ranges_go_from_low_to_high_within_their_interval():
    check_range(first=(-3, 4.5), second=(2, 2))
    check_range("(0, inf)", first=(1e-9, 1e9))
    for interval, value in (
        ("(-inf, inf)", (2, 1)),
        ("(-inf, inf)", (1, math.nan)),
        ("(-inf, inf)", (1, math.inf)),
        ("(-inf, inf)", (1, 2, 3)),
        ("[0, inf)", (-1, 2)),
        ("(0, inf)", (0, 2)),
        ("[0, 1]", (0.5, 1.5)),
    ):
        with pytest.raises(InputError) as caught:
            check_range(interval, sigma_vox=value)
        message = str(caught.value)
        assert message.startswith("sigma_vox: expected a range (low, high) of numbers") and message.endswith(
            f"found {value}"
        )


def test_borders_of_many_digits_are_exact():
    check_within(f"[0, {2**63})", seed=2**63 - 1)
    with pytest.raises(InputError, match="seed: expected a number in"):
        check_within(f"[0, {2**63})", seed=2**63)


def test_choices_are_named():
    check_choice(("uniform", "balanced"), draw="balanced")
    with pytest.raises(InputError, match=r"^draw: expected one of 'uniform', 'balanced', found 'even'$"):
        check_choice(("uniform", "balanced"), draw="even")
