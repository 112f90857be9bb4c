"""Dice of single cases, and how far their mean can be trusted."""

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
    """Overlap of one structure in one case.

    Attributes:
        case: Its identifier.
        label: Name of the label or region.
        dice: In [0, 1]; NaN where neither truth nor prediction has it.
    """

    case: str
    label: str
    dice: float


def read_case_dice(summary: Path, description: Mapping[str, Any]) -> list[CaseDice]:
    """Read what ``nnUNetv2_evaluate_folder``, or nnU-Net's validation, wrote.

    Args:
        summary: ``summary.json``.
        description: The dataset's ``dataset.json``; its ``labels`` may be regions.

    Raises:
        InputError: If the file is missing, damaged or of other labels.
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
            f"{summary} is no summary of nnU-Net's for the labels {sorted(names.values())}: {error!r}"
        ) from None


def _key(label: int | Sequence[int]) -> str:
    """As nnU-Net names a label or region in its summaries."""
    return str(label) if isinstance(label, int) else str(tuple(label))


def subject_means(values: Mapping[str, Sequence[float]]) -> np.ndarray:
    """One number a subject: the mean of its values, NaN left out; subjects without any are left out too.

    Args:
        values: Subject → Dice of its labels and of repeated runs.
    """
    known = [[value for value in repeated if not np.isnan(value)] for repeated in values.values()]
    return np.array([np.mean(repeated) for repeated in known if repeated])


def bootstrap_std(subjects: Sequence[float] | np.ndarray, *, seed: int = 0) -> float:
    """Standard deviation of the mean over resampled subjects, as the paper's tables give it; NaN below two subjects."""
    return float(_bootstrapped(subjects, seed).standard_error) if len(subjects) > 1 else float("nan")


def bootstrap_interval(subjects: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over resampled subjects, by percentiles; NaN below two subjects."""
    if len(subjects) < 2:
        return float("nan"), float("nan")
    low, high = _bootstrapped(subjects, seed).confidence_interval
    return float(low), float(high)


def _bootstrapped(subjects: Sequence[float] | np.ndarray, seed: int) -> Any:
    return bootstrap(
        (np.asarray(subjects, dtype=float),), np.mean, method="percentile", rng=np.random.default_rng(seed)
    )
