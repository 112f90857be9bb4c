"""Verdict on a registration: PASS, WARN or FAIL, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

from nnunet_anatomix.registration.verdict.criteria import CRITERIA, Criterion

Level = Literal["PASS", "WARN", "FAIL"]
LEVELS: tuple[Level, ...] = ("PASS", "WARN", "FAIL")
"""From good to bad."""
_MEANING = {
    "PASS": "all measures are as in pairs that were registered well",
    "WARN": "look at the pictures before you use it",
    "FAIL": "do not use it",
}


@dataclass(frozen=True, kw_only=True)
class RegistrationVerdict:
    """Verdict on a registration.

    Attributes:
        level: ``PASS``, ``WARN`` or ``FAIL``.
        reason: One line that says why.
        levels: Measure → its own level.
    """

    level: Level
    reason: str
    levels: dict[str, Level]


def judge(measures: Mapping[str, Any]) -> RegistrationVerdict:
    """Judge a registration by its measures; the worst one decides.

    Args:
        measures: Name → value, those of
            :class:`~nnunet_anatomix.registration.verdict.quality.Quality` and of
            :func:`~nnunet_anatomix.registration.writing.measure`.

    Returns:
        The verdict. A measure that is missing warns: it could not be computed.
    """
    levels = {criterion.measure: judge_measure(criterion, measures.get(criterion.measure)) for criterion in CRITERIA}
    level = max(levels.values(), key=LEVELS.index)
    beyond = [
        _explain(criterion, measures.get(criterion.measure), level)
        for criterion in CRITERIA
        if levels[criterion.measure] == level
    ]
    why = _MEANING[level] if level == "PASS" else f"{_MEANING[level]}: {'; '.join(beyond)}"
    return RegistrationVerdict(level=level, reason=why, levels=levels)


def judge_measure(criterion: Criterion, value: float | None) -> Level:
    """Judge one measure.

    Args:
        criterion: Measure and thresholds.
        value: Value; None or NaN if it could not be measured.
    """
    if value is None or isnan(value):
        return "WARN"
    for level, threshold in (("FAIL", criterion.fail), ("WARN", criterion.warn)):
        if value < threshold if criterion.higher_is_better else value > threshold:
            return "FAIL" if level == "FAIL" else "WARN"
    return "PASS"


def _explain(criterion: Criterion, value: float | None, level: Level) -> str:
    if value is None or isnan(value):
        return f"{criterion.name} could not be measured"
    threshold = criterion.fail if level == "FAIL" else criterion.warn
    side = "below" if criterion.higher_is_better else "above"
    return f"{criterion.reason} ({criterion.name} {criterion.text(value)}, {side} {criterion.text(threshold)})"
