"""Tests of the verdict: the worst measure decides, and says why."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nnunet_anatomix.registration.verdict.criteria import CRITERIA, Criterion
from nnunet_anatomix.registration.verdict.judge import judge, judge_measure

GOOD = {criterion.measure: 1.0 if criterion.higher_is_better else 0.0 for criterion in CRITERIA}
BY_NAME = {criterion.measure: criterion for criterion in CRITERIA}


def beyond(criterion: Criterion, threshold: float) -> float:
    return threshold - 1e-6 if criterion.higher_is_better else threshold + 1e-6


def test_good_measures_pass():
    verdict = judge(GOOD)
    assert verdict.level == "PASS" and set(verdict.levels.values()) == {"PASS"} and "\n" not in verdict.reason


@pytest.mark.parametrize("name", BY_NAME)
def test_each_measure_warns_and_fails_beyond_its_own_thresholds(name):
    criterion = BY_NAME[name]
    for threshold, at, past in ((criterion.warn, "PASS", "WARN"), (criterion.fail, "WARN", "FAIL")):
        assert judge(GOOD | {name: threshold}).levels[name] == at
        verdict = judge(GOOD | {name: beyond(criterion, threshold)})
        assert verdict.level == verdict.levels[name] == past
        assert [other for other, level in verdict.levels.items() if level != "PASS"] == [name]
        assert criterion.reason in verdict.reason and criterion.text(threshold) in verdict.reason


def test_the_worst_measures_are_named_alone():
    first, second = CRITERIA[:2]
    verdict = judge(GOOD | {first.measure: beyond(first, first.warn), second.measure: beyond(second, second.fail)})
    assert verdict.level == "FAIL" and second.reason in verdict.reason and first.reason not in verdict.reason


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_could_not_be_measured_warns(value):
    verdict = judge(GOOD | {"agreement": value})
    assert verdict.level == "WARN" and "could not be measured" in verdict.reason
    assert BY_NAME["agreement"].text(value) == "–"
    assert judge({}).level == "WARN"


def test_values_are_written_with_their_units():
    share = Criterion(measure="m", name="n", warn=0.1, fail=0.2, unit="%", digits=1, reason="r")
    assert (share.text(0.0123), share.limit(0.1)) == ("1.2 %", "> 10.0 %")
    length = dataclasses.replace(share, unit="mm", digits=2, higher_is_better=True)
    assert (length.text(1.5), length.limit(0.1)) == ("1.50 mm", "< 0.10 mm")
    assert judge_measure(length, 0.15) == "FAIL"
