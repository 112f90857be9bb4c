"""Results of a table's commands, formatted as in the paper."""

from __future__ import annotations

import csv
from math import isfinite
from pathlib import Path

import numpy as np

from nnunet_anatomix.reproduce.commands import SEARCH_FLAGS, study_folder
from nnunet_anatomix.reproduce.plan import TunedFlags
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import SegmentationSource
from nnunet_anatomix.study.report import read_rows, summarize
from nnunet_anatomix.study.runs import start_name
from pretraining.common.errors import InputError

_EXAMPLE_VALUES = ("0.75", "2", "1", "2")
"""Published defaults, shown in a dry run before the search."""


def study_dice(settings: Settings, source: SegmentationSource, start: str, shots: int | None) -> str:
    """Format mean Dice and its bootstrapped std; None for ``shots`` means full supervision."""
    runs = study_folder(settings, source) / "runs"
    names = [
        f"{start_name(start)}_shots{source.cases if shots is None else shots}_seed{seed}"
        for seed in settings.scale.seeds
    ]
    (summary,) = summarize([row for name in names for row in read_rows(runs / name / "dice.csv")])
    return mean_and_std(summary.dice, summary.std)


def pair_numbers(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read mean Dice and folded share of each pair of a batch.

    Args:
        folder: Folder of the batch.

    Returns:
        Two arrays with one value per pair.

    Raises:
        InputError: If a pair has no Dice, because it has no labels.
    """
    from nnunet_anatomix.registration.summary import pair_row, read_registrations

    rows = [pair_row(pair) for pair in read_registrations(folder)]
    dice = np.array([row.dice for row in rows])
    if not np.isfinite(dice).all():
        raise InputError(f"{folder}: expected Dice for every pair, found pairs without; add labels to the pairs")
    return dice, np.array([row.folded_share for row in rows])


def registration_dice(folder: Path) -> str:
    """Format the mean Dice over pairs and its bootstrapped std."""
    from nnunet_anatomix.scores.statistics import bootstrap_std

    dice, _ = pair_numbers(folder)
    return mean_and_std(float(dice.mean()), bootstrap_std(dice))


def registration_median(folder: Path) -> str:
    """Format the median Dice over pairs."""
    return _format_number(float(np.median(pair_numbers(folder)[0])))


def registration_folds(folder: Path) -> str:
    """Format the mean share of folded voxels, %."""
    return f"{100 * pair_numbers(folder)[1].mean():.2f}%"


def search_numbers(folder: Path, method: str) -> dict[str, str]:
    """Read one line of a search's ``summary.csv``."""
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return next(row for row in csv.DictReader(file) if row["method"] == method)


def tuned_flags(tuned: TunedFlags, *, dry: bool = False) -> list[str]:
    """Return the flags of the best settings that a search found.

    Args:
        tuned: Folder and method of the search.
        dry: Return example values if there is no result yet.

    Returns:
        Flags of ``register``.

    Raises:
        InputError: If all settings fold too much.
    """
    if dry and not (tuned.search / "summary.csv").is_file():
        return [word for pair in zip(SEARCH_FLAGS.values(), _EXAMPLE_VALUES, strict=True) for word in pair]
    row = search_numbers(tuned.search, tuned.method)
    if not row["best_smoothness"]:
        raise InputError(
            f"{tuned.search}: expected settings of {tuned.method} that fold less than .5 %, found none; "
            "widen the search"
        )
    return [word for name, flag in SEARCH_FLAGS.items() for word in (flag, row[f"best_{name}"])]


def mean_and_std(mean: float, std: float) -> str:
    """Format mean and std as ``.89(.01)``, and only the mean if the std is not finite."""
    return f"{_format_number(mean)}({_format_number(std)})" if isfinite(std) else _format_number(mean)


def _format_number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"
