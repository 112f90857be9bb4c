"""Thresholds of the verdict: the one place that says when a registration passes.

They separate the pairs of ``tests/benchmarks/verdicts.py``, of which it is known whether they can
be registered; docs/explanation/verdict.md has what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One measure and its thresholds.

    Attributes:
        measure: Key of the metrics in ``registration.json``.
        name: Name for people.
        warn: Threshold beyond which the registration must be looked at.
        fail: Threshold beyond which it is not to be used.
        higher_is_better: Whether values below the thresholds are beyond them.
        unit: Unit of value and thresholds: ``%`` for shares in [0, 1], else written as it is.
        digits: Number of decimal places.
        reason: What a value beyond a threshold means.
    """

    measure: str
    name: str
    warn: float
    fail: float
    higher_is_better: bool = False
    unit: str = ""
    digits: int = 2
    reason: str

    def text(self, value: float | None) -> str:
        """Format a value or threshold with its unit; a dash for None."""
        if value is None or isnan(value):
            return "–"
        if self.unit == "%":
            return f"{100 * value:.{self.digits}f} %"
        return f"{value:.{self.digits}f} {self.unit}".strip()

    def limit(self, threshold: float) -> str:
        """Format a threshold with the side that is beyond it."""
        return f"{'<' if self.higher_is_better else '>'} {self.text(threshold)}"


CRITERIA = (
    Criterion(
        measure="overlap",
        name="overlap of the fields of view",
        warn=0.5,
        fail=0.25,
        higher_is_better=True,
        unit="%",
        digits=0,
        reason="the scans show little in common",
    ),
    Criterion(
        measure="agreement",
        name="agreement after registration",
        warn=0.5,
        fail=0.35,
        higher_is_better=True,
        reason="the registered scans do not look alike",
    ),
    Criterion(
        measure="left_over_vox",
        name="left over, zero-warp consistency",
        warn=1.0,
        fail=1.4,
        unit="voxels",
        reason="registered again, the pair still moves",
    ),
    Criterion(
        measure="stretch",
        name="stretch of the linear start",
        warn=1.35,
        fail=2.0,
        reason="one scan had to be stretched or shrunk a lot",
    ),
    Criterion(
        measure="sd_log_jacobian",
        name="spread of local volume changes, sdLogJ",
        warn=0.6,
        fail=1.2,
        reason="volumes change very unevenly",
    ),
    Criterion(
        measure="folded_share",
        name="folded voxels",
        warn=0.001,
        fail=0.005,
        unit="%",
        reason="space folds: points cannot be moved back",
    ),
    Criterion(
        measure="inverse_error_mm",
        name="inverse error",
        warn=0.4,
        fail=1.0,
        unit="mm",
        reason="forward and inverse transform do not fit together",
    ),
)
"""All criteria, in the order in which they are listed."""
