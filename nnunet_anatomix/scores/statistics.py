"""Dice of single cases, and the uncertainty of their mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from pretraining.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CaseDice:
    """Dice of one structure in one case.

    Attributes:
        case: Identifier of the case.
        label: Name of the label or region.
        dice: Dice in [0, 1]; NaN if neither truth nor prediction contains the structure.
    """

    case: str
    label: str
    dice: float


def read_case_dice(summary: Path, description: Mapping[str, Any]) -> list[CaseDice]:
    """Read the summary of ``nnUNetv2_evaluate_folder`` or of nnU-Net's validation.

    Args:
        summary: Path of the ``summary.json``.
        description: Content of the dataset's ``dataset.json``; its ``labels`` may be regions.

    Raises:
        InputError: If the file is missing, damaged or has other labels.
    """
    names = {_key(value): name for name, value in description["labels"].items()}
    ending = description["file_ending"]
    try:
        cases = json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]
        return [
            CaseDice(
                case=Path(case["prediction_file"]).name.removesuffix(ending),
                label=names[key],
                dice=float(metrics["Dice"]),
            )
            for case in cases
            for key, metrics in case["metrics"].items()
        ]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{summary} is not a summary of nnU-Net for the labels {sorted(names.values())}: {error!r}"
        ) from None


def _key(label: int | Sequence[int]) -> str:
    """Return the key of a label or region in nnU-Net's summaries."""
    return str(label) if isinstance(label, int) else str(tuple(label))


def subject_means(values: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Compute the mean of each subject's values, ignoring NaN.

    Args:
        values: Dice of each subject: all labels and repeated runs.

    Returns:
        One mean per subject; subjects with only NaN are dropped.
    """
    valid = [[value for value in repeated if not np.isnan(value)] for repeated in values.values()]
    return np.array([np.mean(repeated) for repeated in valid if repeated])


def bootstrap_std(subjects: Sequence[float] | np.ndarray, *, seed: int = 0) -> float:
    """Compute the bootstrapped standard deviation of the mean over subjects (the paper's tables).

    Args:
        subjects: One value per subject.
        seed: Seed of the resampling.

    Returns:
        Standard deviation; NaN for fewer than two subjects.
    """
    return float(_bootstrap(subjects, seed).standard_error) if len(subjects) > 1 else float("nan")


def bootstrap_interval(subjects: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Compute the bootstrapped 95 % interval of the mean over subjects, by percentiles.

    Args:
        subjects: One value per subject.
        seed: Seed of the resampling.

    Returns:
        Lower and upper bound; NaN for fewer than two subjects.
    """
    if len(subjects) < 2:
        return float("nan"), float("nan")
    low, high = _bootstrap(subjects, seed).confidence_interval
    return float(low), float(high)


def _bootstrap(subjects: Sequence[float] | np.ndarray, seed: int) -> Any:
    return bootstrap(
        (np.asarray(subjects, dtype=float),), np.mean, method="percentile", rng=np.random.default_rng(seed)
    )
