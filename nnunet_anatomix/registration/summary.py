"""Summary of a folder of registrations: rows per pair, a table of methods, a figure of Dice."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.scores.statistics import bootstrap_interval, bootstrap_std
from pretraining.common.atomic import atomic_write, write_text
from pretraining.common.errors import InputError
from pretraining.common.tables import markdown_table, write_records

log = logging.getLogger(__name__)

REGISTRATION_FILE = "registration.json"
_BEFORE, _AFTER = "0.65", "C0"
"""Colours of Dice before and after registration."""


@dataclass(frozen=True, kw_only=True)
class PairMetrics:
    """Metrics of one pair; what was not measured is empty, or NaN.

    Attributes:
        pair, method: Names.
        seconds: Duration of the registration.
        dice, hd95_mm: Label → value after registration.
        dice_before: Label → value before registration.
        tre_mm, tre_before_mm: Error of each landmark after and before registration.
        folded_share: Share of folded voxels, in [0, 1].
        inverse_error_mm: Mean over voxels.
        verdict, reason: ``PASS``, ``WARN`` or ``FAIL``, and why.
    """

    pair: str
    method: str
    seconds: float
    dice: dict[str, float]
    dice_before: dict[str, float]
    hd95_mm: dict[str, float]
    tre_mm: tuple[float, ...]
    tre_before_mm: tuple[float, ...]
    folded_share: float
    inverse_error_mm: float
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One line of ``pairs.csv``: mean over labels and median over landmarks of one pair."""

    pair: str
    method: str
    dice: float
    dice_before: float
    hd95_mm: float
    tre_median_mm: float
    tre_median_before_mm: float
    folded_share: float
    inverse_error_mm: float
    seconds: float
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One line of ``summary.csv``: means over the pairs of one method, without NaN.

    Attributes:
        method: Name of the method.
        pairs: Number of pairs.
        dice: Mean over pairs.
        dice_std, dice_low, dice_high: Standard deviation and 95 % interval of that mean,
            bootstrapped over pairs.
        dice_before, hd95_mm, folded_share, inverse_error_mm, seconds: Means over pairs.
        tre_median_mm, tre_median_before_mm: Mean over pairs of the median over landmarks.
    """

    method: str
    pairs: int
    dice: float
    dice_std: float
    dice_low: float
    dice_high: float
    dice_before: float
    hd95_mm: float
    tre_median_mm: float
    tre_median_before_mm: float
    folded_share: float
    inverse_error_mm: float
    seconds: float


def read_registrations(folder: Path) -> list[PairMetrics]:
    """Read ``registration.json`` of every subfolder, in the order of names.

    Args:
        folder: Folder of a batch.

    Returns:
        Metrics of each pair.

    Raises:
        InputError: If there is no report, or one is damaged.
    """
    files = sorted(folder.glob(f"*/{REGISTRATION_FILE}"))
    if not files:
        raise InputError(
            f"no registrations in {folder}, expected folders that hold {REGISTRATION_FILE}; pass the folder of a batch"
        )
    without = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not (path / REGISTRATION_FILE).is_file()
    )
    if without:
        log.warning("%d folders without %s are ignored: %s", len(without), REGISTRATION_FILE, ", ".join(without))
    return [read_registration(file) for file in files]


def read_registration(file: Path) -> PairMetrics:
    """Read one ``registration.json``.

    Args:
        file: The file.

    Returns:
        Metrics of the pair.

    Raises:
        InputError: If the report is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        metrics = content.get("metrics") or {}
        return PairMetrics(
            pair=str(content["pair"]),
            method=str(content["method"]),
            seconds=_number(content.get("seconds")),
            dice=_numbers(metrics, "dice"),
            dice_before=_numbers(metrics, "dice_before"),
            hd95_mm=_numbers(metrics, "hd95_mm"),
            tre_mm=tuple(map(_number, metrics.get("tre_mm") or ())),
            tre_before_mm=tuple(map(_number, metrics.get("tre_before_mm") or ())),
            folded_share=_number(metrics.get("folded_share")),
            inverse_error_mm=_number(metrics.get("inverse_error_mm")),
            verdict=str(content.get("verdict") or ""),
            reason=str(content.get("reason") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not a valid registration report ({error!r}); register that pair again, or move its folder away"
        ) from None


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _numbers(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    return {label: _number(value) for label, value in (metrics.get(name) or {}).items()}


def pair_row(pair: PairMetrics) -> PairRow:
    """Reduce the metrics of one pair to one row: means over labels, medians over landmarks."""
    return PairRow(
        pair=pair.pair,
        method=pair.method,
        dice=_mean(pair.dice.values()),
        dice_before=_mean(pair.dice_before.values()),
        hd95_mm=_mean(pair.hd95_mm.values()),
        tre_median_mm=_median(pair.tre_mm),
        tre_median_before_mm=_median(pair.tre_before_mm),
        folded_share=pair.folded_share,
        inverse_error_mm=pair.inverse_error_mm,
        seconds=pair.seconds,
        verdict=pair.verdict,
    )


def summarize(pairs: Sequence[PairMetrics]) -> list[MethodRow]:
    """Average the pairs of each method, in the order in which methods appear."""
    rows = [pair_row(pair) for pair in pairs]
    averaged = [field.name for field in fields(PairRow) if field.name not in ("pair", "method", "verdict")]
    summaries = []
    for method in dict.fromkeys(row.method for row in rows):
        of_method = [row for row in rows if row.method == method]
        means = {name: _mean([getattr(row, name) for row in of_method]) for name in averaged}
        dice = [row.dice for row in of_method if isfinite(row.dice)]
        low, high = bootstrap_interval(dice)
        summaries.append(
            MethodRow(
                method=method, pairs=len(of_method), dice_std=bootstrap_std(dice), dice_low=low, dice_high=high, **means
            )
        )
    return summaries


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if isfinite(value)]
    return float(np.mean(known)) if known else nan


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if isfinite(value)]
    return float(np.median(known)) if known else nan


def write_summary(folder: Path, out: Path | None = None) -> str:
    """Write ``pairs.csv``, ``summary.csv``, ``summary.md`` and, if there is any Dice, ``dice.png``.

    Args:
        folder: Folder of the batch, with a subfolder for each pair.
        out: Folder for the summary. Default: the folder of the batch.

    Returns:
        The table, as Markdown.

    Raises:
        InputError: As in :func:`read_registrations`.
    """
    out = folder if out is None else out
    pairs = read_registrations(folder)
    rows, summaries = [pair_row(pair) for pair in pairs], summarize(pairs)
    text = markdown(summaries)
    write_records(out / "pairs.csv", PairRow, rows)
    write_records(out / "summary.csv", MethodRow, summaries)
    write_text(out / "summary.md", text)
    if any(isfinite(row.dice) for row in rows):
        draw_dice(out / "dice.png", rows)
    return text


def markdown(summaries: Sequence[MethodRow]) -> str:
    """Format the table as Markdown, with a dash for what was not measured."""
    columns = {
        "method": lambda one: one.method,
        "pairs": lambda one: str(one.pairs),
        "Dice before": lambda one: _cell(one.dice_before, 3),
        "Dice (std)": lambda one: f"{_cell(one.dice, 3)} ({_cell(one.dice_std, 3)})",
        "95 % interval": lambda one: f"{_cell(one.dice_low, 3)} to {_cell(one.dice_high, 3)}",
        "HD95, mm": lambda one: _cell(one.hd95_mm, 2),
        "TRE before, mm": lambda one: _cell(one.tre_median_before_mm, 2),
        "TRE, mm": lambda one: _cell(one.tre_median_mm, 2),
        "folded, %": lambda one: _cell(100 * one.folded_share, 3),
        "inverse error, mm": lambda one: _cell(one.inverse_error_mm, 3),
        "seconds": lambda one: _cell(one.seconds, 1),
    }
    table = markdown_table(list(columns), [[cell(one) for cell in columns.values()] for one in summaries])
    caption = (
        "Means over pairs (of the mean over labels, and of the median over landmarks); "
        "std and interval by bootstrap over pairs"
    )
    return f"{caption}\n\n{table}"


def _cell(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if isfinite(value) else "–"


def draw_dice(out: Path, rows: Sequence[PairRow]) -> None:
    """Draw Dice before and after registration as box plots, with one line per pair.

    Args:
        out: PNG file, written atomically.
        rows: One row per pair and method.
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(1.5 + 1.8 * len(methods), 4), layout="constrained")
    axis = figure.subplots()
    for number, method in enumerate(methods):
        dice = np.array([(row.dice_before, row.dice) for row in rows if row.method == method])
        positions = number + np.array([-0.2, 0.2])
        for position, values, colour in zip(positions, dice.T, (_BEFORE, _AFTER), strict=True):
            line = {"color": colour, "linewidth": 1.5}
            axis.boxplot(
                values[np.isfinite(values)],
                positions=[position],
                widths=0.25,
                showfliers=False,
                boxprops=line,
                medianprops=line,
                whiskerprops=line,
                capprops=line,
            )
            axis.scatter([position] * len(values), values, s=14, color=colour, alpha=0.7, zorder=3)
        axis.plot(positions, dice.T, color="0.5", alpha=0.3, linewidth=0.8)
    for name, colour in (("before", _BEFORE), ("after", _AFTER)):
        axis.scatter([], [], color=colour, label=name)
    axis.set_xticks(range(len(methods)), methods)
    axis.set(ylabel="Dice, mean over labels", ylim=(-0.02, 1.02), xlim=(-0.5, len(methods) - 0.5))
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    with atomic_write(out) as partial:
        figure.savefig(partial, format="png", dpi=150)
