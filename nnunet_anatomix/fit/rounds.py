"""Rounds of a fit: cross-validations of growing length, until the Dice is flat or time is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from nnunet_anatomix.finetuning.recipe import PAPER_ITERATIONS
from nnunet_anatomix.propagation.leave_one_out import interval_of_mean
from nnunet_anatomix.scores.statistics import CaseDice, subject_means

FIRST, GROWTH, LONGEST = 100, 4, PAPER_ITERATIONS
"""Optimizer steps of the first round; factor from round to round; steps of the longest round."""
LEAST_GROWTH = 1.5
"""Least factor that is worth another round, where the remaining time allows no full one."""
LEAST_GAIN = 0.005
"""Gain of Dice below which longer rounds are not tried."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One cross-validation.

    Attributes:
        iterations: Optimizer steps of each training.
        folds: Number of trainings.
        seconds: Time of all trainings and their validations.
        dice: Dice of every structure of every labelled scan, by a network that has not seen it.
        is_enlarged: Whether it also trained on unlabelled scans.
    """

    iterations: int
    folds: int
    seconds: float
    dice: tuple[CaseDice, ...]
    is_enlarged: bool = False

    @property
    def case_means(self) -> np.ndarray:
        """Mean Dice of each labelled scan; scans without any structure are dropped."""
        return subject_means(_group(self.dice, "case"))

    @property
    def mean(self) -> float:
        """Mean Dice over the labelled scans; NaN if none has a structure."""
        means = self.case_means
        return float(means.mean()) if len(means) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95 % interval of the mean; NaN for a single scan."""
        return interval_of_mean([float(mean) for mean in self.case_means])

    @property
    def label_means(self) -> dict[str, float]:
        """Mean Dice of each structure, of those that occur."""
        values = {label: [one for one in dice if not isnan(one)] for label, dice in _group(self.dice, "label").items()}
        return {label: float(np.mean(dice)) for label, dice in values.items() if dice}

    def describe(self) -> str:
        """Return the Dice to expect, as a line."""
        low, high = self.interval
        interval = "" if isnan(low) else f" (95 % interval of the mean {low:.3f} to {high:.3f})"
        return f"Dice {self.mean:.3f}{interval} on {len(self.case_means)} left-out scans"


def best_round(rounds: Sequence[Round]) -> Round:
    """Return the round with the highest mean Dice; of equal ones, the shortest, then the first."""
    return max(rounds, key=lambda one: (-1.0 if isnan(one.mean) else one.mean, -one.iterations))


def is_flat(rounds: Sequence[Round]) -> bool:
    """Return whether the last round gained less than :data:`LEAST_GAIN` over all before."""
    return len(rounds) > 1 and not rounds[-1].mean >= best_round(rounds[:-1]).mean + LEAST_GAIN


def next_length(rounds: Sequence[Round], *, remaining_s: float | None = None, repeats: int = 1) -> int | None:
    """Return the optimizer steps of the next round.

    Args:
        rounds: Rounds so far, in order.
        remaining_s: Time left for the round and the final model, seconds. Default: no limit.
        repeats: Number of times that a round of this length is to run.

    Returns:
        Steps, or None if the Dice is flat, the longest round is done, or the time allows no round
        that is worth it. A round that is longer than the time allows is shortened.
    """
    if not rounds:
        return FIRST
    last = rounds[-1]
    if is_flat(rounds) or last.iterations >= LONGEST:
        return None
    wanted = min(GROWTH * last.iterations, LONGEST)
    if remaining_s is None:
        return wanted
    # The final model is one training more.
    seconds_per_iteration = last.seconds / last.iterations * (repeats + 1 / last.folds)
    affordable = int(remaining_s / max(seconds_per_iteration, 1e-9))
    return min(wanted, affordable) if affordable >= LEAST_GROWTH * last.iterations else None


def _group(dice: Sequence[CaseDice], by: str) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for one in dice:
        groups.setdefault(getattr(one, by), []).append(one.dice)
    return groups
