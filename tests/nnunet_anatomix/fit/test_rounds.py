"""Rounds of a fit: how long the next one is, when they end, and which one is best."""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest
from scipy import stats

from nnunet_anatomix.fit.rounds import LONGEST, Round, best_round, is_flat, next_length
from nnunet_anatomix.scores.statistics import CaseDice


def one_round(iterations: int, *dice: float, seconds: float = 60.0, folds: int = 2) -> Round:
    """Return a round with one Dice per scan."""
    scores = tuple(CaseDice(case=f"c{number}", label="a", dice=value) for number, value in enumerate(dice))
    return Round(iterations=iterations, folds=folds, seconds=seconds, dice=scores)


def test_rounds_grow_until_the_dice_is_flat():
    rounds: list[Round] = []
    lengths = []
    dice = {100: 0.3, 400: 0.6, 1600: 0.7, 6400: 0.703}
    while (length := next_length(rounds)) is not None:
        lengths.append(length)
        rounds.append(one_round(length, dice[length], dice[length] + 0.1))
    assert lengths == [100, 400, 1600, 6400] and is_flat(rounds)
    assert best_round(rounds).iterations == 6400


def test_a_worse_or_unknown_round_ends_the_search_and_is_not_best():
    for last in (0.5, nan):
        rounds = [one_round(100, 0.6, 0.6), one_round(400, last, last)]
        assert next_length(rounds) is None and best_round(rounds).iterations == 100
    assert best_round([one_round(100, 0.6), one_round(400, 0.6)]).iterations == 100


def test_no_round_is_longer_than_the_papers_training():
    rounds = [one_round(25_600, 0.6, 0.7)]
    assert next_length(rounds) == LONGEST == 37_500
    assert next_length([*rounds, one_round(LONGEST, 0.8, 0.8)]) is None


@pytest.mark.parametrize(("remaining_s", "expected"), [(400, 400), (200, 222), (130, None), (0, None), (-50, None)])
def test_the_round_and_the_final_model_fit_into_the_time(remaining_s, expected):
    # 0.6 s a step for two folds, and 0.3 s for the final model.
    assert next_length([one_round(100, 0.3, 0.3)], remaining_s=remaining_s) == expected


def test_the_first_round_runs_at_any_time():
    assert next_length([], remaining_s=1) == 100


def test_means_and_interval_are_over_scans():
    dice = [("x", "a", 0.5), ("x", "b", 0.9), ("y", "a", 0.8), ("y", "b", nan), ("z", "a", nan)]
    one = Round(
        iterations=1,
        folds=3,
        seconds=1,
        dice=tuple(CaseDice(case=case, label=label, dice=value) for case, label, value in dice),
    )
    assert sorted(one.case_means) == pytest.approx([0.7, 0.8]) and one.mean == pytest.approx(0.75)
    assert one.label_means == {"a": pytest.approx(0.65), "b": pytest.approx(0.9)}
    assert one.interval == pytest.approx(
        np.clip(stats.t.interval(0.95, 1, 0.75, stats.sem([0.7, 0.8])), 0, 1), abs=1e-9
    )
    assert "Dice 0.750 (95 % interval" in one.describe() and "2 left-out scans" in one.describe()
    assert "interval" not in one_round(1, 0.5).describe() and isnan(one_round(1, nan).mean)
