"""The area under the ROC curve by its meaning: all pairs of a positive and a negative, compared one by one."""

from __future__ import annotations

import numpy as np


def mean_roc_area(values: np.ndarray, positive: np.ndarray) -> float:
    """Mean over rows of (R, N) values of the probability that a positive exceeds a negative; a tie is half a win."""
    areas = []
    for row, chosen in zip(values, positive, strict=True):
        wins = [float(high > low) + 0.5 * float(high == low) for high in row[chosen] for low in row[~chosen]]
        if wins:
            areas.append(np.mean(wins))
    return float(np.mean(areas))
