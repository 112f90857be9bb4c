"""Measure how well label propagation predicts its own Dice.

``python -m tests.benchmarks.predicted_dice PROPAGATED SCORES`` reads ``propagation.csv`` of
``nnunet-anatomix propagate`` and ``cases.csv`` of ``nnunet-anatomix evaluate segmentation``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

NUMBERS = ("difference", "agreement")


def correlations(propagated: Path, scores: Path) -> dict[str, float]:
    """Return the correlation of each number of ``propagation.csv`` with the mean Dice of a case."""
    with open(scores / "cases.csv", newline="", encoding="utf-8") as file:
        dice: dict[str, list[float]] = {}
        for row in csv.DictReader(file):
            dice.setdefault(row["case"], []).append(float(row["dice"]))
    with open(propagated / "propagation.csv", newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    means = [float(np.nanmean(dice[case])) for case in rows]
    return {name: float(np.corrcoef(means, [float(row[name]) for row in rows.values()])[0, 1]) for name in NUMBERS}


if __name__ == "__main__":
    for number, value in correlations(Path(sys.argv[1]), Path(sys.argv[2])).items():
        sys.stdout.write(f"correlation of {number} with Dice: {value:.2f}\n")
