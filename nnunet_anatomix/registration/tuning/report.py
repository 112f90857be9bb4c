"""What a grid search comes to: its rows, a table of means as in Table 4, a sweep over λ as in Fig. 10 (App. A.2)."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from nnunet_anatomix.registration.tuning.grid import Combination
from pretraining.common.atomic import atomic_write, write_text
from pretraining.common.errors import InputError
from pretraining.common.tables import csv_text, markdown_table, write_csv

log = logging.getLogger(__name__)

MAX_FOLDED_SHARE = 0.005
"""What a good combination must stay below, mean over pairs."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of ``results.csv``: one registration.

    Attributes:
        pair, method: Names.
        settings: Digest of images, weights and all settings that were not searched.
        smoothness, grid_spacing, reach, adam_spacing: The combination.
        dice_before, dice: Mean over labels.
        folded_share: Of voxels, in [0, 1].
    """

    pair: str
    method: str
    settings: str
    smoothness: float
    grid_spacing: int
    reach: int
    adam_spacing: int
    dice_before: float
    dice: float
    folded_share: float

    @property
    def combination(self) -> Combination:
        """Of settings."""
        return Combination(*(getattr(self, name) for name in Combination._fields))

    @property
    def key(self) -> tuple[str, str, str, Combination]:
        """What no two rows share."""
        return self.pair, self.method, self.settings, self.combination


_COLUMNS = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(ResultRow)}


def read_rows(path: Path) -> list[ResultRow]:
    """Read ``results.csv``, if it is there; an unfinished last line, left by a killed process, is cut off the file.

    Raises:
        InputError: If it is something else, or damaged.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        log.warning("%s ended in the middle of a line, which is registered again", path)
        os.truncate(path, len(whole))
    lines = csv.reader(whole.decode("utf-8", errors="replace").splitlines())
    if (header := next(lines, list(_COLUMNS))) != list(_COLUMNS):
        raise InputError(
            f"{path}: expected the header {','.join(_COLUMNS)}, found {','.join(header)[:80]}; move the file away"
        )
    try:
        return [
            ResultRow(**{name: of_type(value) for (name, of_type), value in zip(_COLUMNS.items(), line, strict=True)})
            for line in lines
        ]
    except ValueError as error:
        raise InputError(f"{path}, line {lines.line_num}: {error}; remove that line, or move the file away") from None


@contextmanager
def append_rows(path: Path) -> Iterator[Callable[[ResultRow], None]]:
    """Yield what appends a row to a file that :func:`read_rows` has read; every row is on disk before the next is computed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(csv_text(list(_COLUMNS), []))

        def append(row: ResultRow) -> None:
            file.write(csv_text([], [list(asdict(row).values())], digits=None))
            file.flush()
            os.fsync(file.fileno())

        yield append


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of one method: means over pairs."""

    combination: Combination
    dice: float
    folded_share: float


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One line of ``summary.csv``, as in Table 4.

    Attributes:
        method: Its name.
        pairs, combinations: Their numbers.
        dice_before: Mean over pairs.
        dice, folded_share: Mean over pairs and combinations.
        dice_std, folded_share_std: Standard deviation over combinations of the mean over pairs.
        best: The combination of most Dice among those that fold less than ``MAX_FOLDED_SHARE``;
            None where all fold more.
    """

    method: str
    pairs: int
    combinations: int
    dice_before: float
    dice: float
    dice_std: float
    folded_share: float
    folded_share_std: float
    best: Point | None


def points(rows: Sequence[ResultRow]) -> dict[str, list[Point]]:
    """Method → its combinations, in the order in which they come."""
    groups: dict[str, dict[Combination, list[ResultRow]]] = {}
    for row in rows:
        groups.setdefault(row.method, {}).setdefault(row.combination, []).append(row)
    return {
        method: [
            Point(
                combination=combination,
                dice=float(np.mean([row.dice for row in mine])),
                folded_share=float(np.mean([row.folded_share for row in mine])),
            )
            for combination, mine in by_combination.items()
        ]
        for method, by_combination in groups.items()
    }


def summarize(rows: Sequence[ResultRow]) -> list[MethodSummary]:
    """Statistics of every method.

    Args:
        rows: Of every pair, method and combination one.
    """
    summaries = []
    for method, of_method in points(rows).items():
        dice, folded = (np.array([getattr(point, name) for point in of_method]) for name in ("dice", "folded_share"))
        before = {row.pair: row.dice_before for row in rows if row.method == method}
        summaries.append(
            MethodSummary(
                method=method,
                pairs=len(before),
                combinations=len(of_method),
                dice_before=float(np.mean([*before.values()])),
                dice=float(dice.mean()),
                dice_std=float(dice.std()),
                folded_share=float(folded.mean()),
                folded_share_std=float(folded.std()),
                best=max(
                    (p for p in of_method if p.folded_share < MAX_FOLDED_SHARE),
                    key=lambda point: point.dice,
                    default=None,
                ),
            )
        )
    return summaries


def write_report(out: Path, rows: Sequence[ResultRow]) -> str:
    """Write ``summary.md``, ``summary.csv`` and ``sweep.png`` into ``out``.

    Args:
        out: A folder.
        rows: Of every pair, method and combination one.

    Returns:
        The table, as Markdown.
    """
    summaries = summarize(rows)
    text = markdown(summaries)
    write_text(out / "summary.md", text)
    _write_csv(out / "summary.csv", summaries)
    draw_sweep(out / "sweep.png", rows)
    return text


def markdown(summaries: Sequence[MethodSummary]) -> str:
    """The table, and which settings to take."""
    bound = f"{100 * MAX_FOLDED_SHARE:g} %"
    header = ["method", "Dice before", "Dice", "folds, %"]
    header += ["best λ", "grid spacing", "reach", "Adam spacing", "its Dice", "its folds, %"]
    lines = []
    for one in summaries:
        statistics = [
            f"{one.dice_before:.3f}",
            f"{one.dice:.3f} ± {one.dice_std:.3f}",
            f"{100 * one.folded_share:.3f} ± {100 * one.folded_share_std:.3f}",
        ]
        best = ["–"] * 6
        if one.best:
            best = [
                *(f"{value:g}" for value in one.best.combination),
                f"{one.best.dice:.3f}",
                f"{100 * one.best.folded_share:.3f}",
            ]
        lines.append([one.method, *statistics, *best])
    table = markdown_table(header, lines)
    numbers = f"pairs ({summaries[0].pairs}) and combinations of settings ({summaries[0].combinations})"
    said = f"Means over {numbers} ± std over combinations, as in Table 4; best has most Dice among those that fold less than {bound}"
    return f"{said}\n\n{table}"


def draw_sweep(out: Path, rows: Sequence[ResultRow]) -> None:
    """Draw Dice and folds against λ: a box a method and λ, a point a combination, as in Fig. 10.

    Args:
        out: The ``.png`` file, written whole or not at all.
        rows: Of every pair, method and combination one.
    """
    from matplotlib.figure import Figure

    by_method = points(rows)
    weights = sorted({row.smoothness for row in rows})
    width = 0.8 / len(by_method)
    figure = Figure(figsize=(max(6, 2 + 0.5 * len(weights) * len(by_method)), 6.5), layout="constrained")
    axes = figure.subplots(2, sharex=True)
    for number, (method, of_method) in enumerate(by_method.items()):
        lines = {
            part: {"color": f"C{number}", "linewidth": 1}
            for part in ("boxprops", "medianprops", "whiskerprops", "capprops")
        }
        for place, weight in enumerate(weights):
            mine = [point for point in of_method if point.combination.smoothness == weight]
            middle = place + width * (number - (len(by_method) - 1) / 2)
            # Side by side, where one would cover the other.
            places = middle + np.linspace(-0.3, 0.3, len(mine) + 2)[1:-1] * width
            for axis, values in zip(axes, ([p.dice for p in mine], [100 * p.folded_share for p in mine]), strict=True):
                axis.boxplot(
                    values, positions=[middle], widths=0.8 * width, showfliers=False, manage_ticks=False, **lines
                )
                axis.scatter(places, values, s=14, color=f"C{number}", alpha=0.5, linewidths=0, zorder=3)
        axes[0].scatter([], [], color=f"C{number}", label=method)
    axes[1].axhline(100 * MAX_FOLDED_SHARE, color="0.4", linestyle="--", linewidth=1, label="what the best stay below")
    axes[1].set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    axes[0].set(ylabel="Dice, mean over labels and pairs")
    axes[1].set(ylabel="folded voxels, %", xlabel="smoothness λ", xlim=(-0.5, len(weights) - 0.5))
    for axis in axes:
        axis.grid(axis="y", alpha=0.3)
        axis.legend()
    with atomic_write(out) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _write_csv(path: Path, summaries: Sequence[MethodSummary]) -> None:
    columns = [field.name for field in fields(MethodSummary) if field.name != "best"]
    best_of = {
        one.method: [*one.best.combination, one.best.dice, one.best.folded_share] if one.best else [None] * 6
        for one in summaries
    }
    rows = ([*(getattr(one, name) for name in columns), *best_of[one.method]] for one in summaries)
    write_csv(path, [*columns, *(f"best_{name}" for name in (*Combination._fields, "dice", "folded_share"))], rows)
