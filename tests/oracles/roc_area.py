"""The area under the ROC curve by its definition, over all pairs of a positive and a negative."""

from __future__ import annotations

import numpy as np


def mean_roc_area(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive exceeds a negative, mean over rows of (R, N) values.

    A tie counts half.
    """
    areas = []
    for row, chosen in zip(values, positive, strict=True):
        wins = [float(high > low) + 0.5 * float(high == low) for high in row[chosen] for low in row[~chosen]]
        if wins:
            areas.append(np.mean(wins))
    return float(np.mean(areas))
