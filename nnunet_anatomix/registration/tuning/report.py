"""Results of a grid search: rows, a table as in Table 4, a figure as in Fig. 10 (App. A.2)."""

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
"""Upper bound of the mean folded share for the best combination."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of ``results.csv``: one registration.

    Attributes:
        pair, method: Names.
        settings: Digest of images, weights and all settings outside the grid.
        smoothness, grid_spacing, reach, adam_spacing: Combination of settings.
        dice_before, dice: Mean over labels, before and after registration.
        folded_share: Share of folded voxels, in [0, 1].
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
        """Combination of settings."""
        return Combination(*(getattr(self, name) for name in Combination._fields))

    @property
    def key(self) -> tuple[str, str, str, Combination]:
        """Key of the row, unique in a file."""
        return self.pair, self.method, self.settings, self.combination


_COLUMNS = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(ResultRow)}


def read_rows(path: Path) -> list[ResultRow]:
    """Read ``results.csv``, and truncate an incomplete last line of an interrupted run.

    Args:
        path: CSV file, which may be missing.

    Returns:
        All rows; none if the file is missing.

    Raises:
        InputError: If the file has another header, or is damaged.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        log.warning("%s ended in an incomplete line; that registration is computed again", path)
        os.truncate(path, len(complete))
    lines = csv.reader(complete.decode("utf-8", errors="replace").splitlines())
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
    """Open a results file, and yield a function that appends one row and syncs it to disk.

    Args:
        path: File that :func:`read_rows` has read, which may be missing.
    """
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
    """Means over pairs of one combination of one method."""

    combination: Combination
    dice: float
    folded_share: float


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One line of ``summary.csv``, as in Table 4.

    Attributes:
        method: Name of the method.
        pairs, combinations: Numbers of pairs and combinations.
        dice_before: Mean over pairs.
        dice, folded_share: Mean over pairs and combinations.
        dice_std, folded_share_std: Standard deviation over combinations of the mean over pairs.
        best: Combination with the highest Dice among those that fold less than
            ``MAX_FOLDED_SHARE``; None if there is none.
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
    """Average over pairs: method → its combinations, in order of appearance."""
    groups: dict[str, dict[Combination, list[ResultRow]]] = {}
    for row in rows:
        groups.setdefault(row.method, {}).setdefault(row.combination, []).append(row)
    return {
        method: [
            Point(
                combination=combination,
                dice=float(np.mean([row.dice for row in of_combination])),
                folded_share=float(np.mean([row.folded_share for row in of_combination])),
            )
            for combination, of_combination in by_combination.items()
        ]
        for method, by_combination in groups.items()
    }


def summarize(rows: Sequence[ResultRow]) -> list[MethodSummary]:
    """Compute the statistics of each method.

    Args:
        rows: One row per pair, method and combination.

    Returns:
        One summary per method.
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
        out: Folder.
        rows: One row per pair, method and combination.

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
    """Format the table as Markdown, with the best settings of each method."""
    bound = f"{100 * MAX_FOLDED_SHARE:g} %"
    header = ["method", "Dice before", "Dice", "folds, %"]
    header += ["best λ", "grid spacing", "reach", "Adam spacing", "its Dice", "its folds, %"]
    lines = []
    for summary in summaries:
        statistics = [
            f"{summary.dice_before:.3f}",
            f"{summary.dice:.3f} ± {summary.dice_std:.3f}",
            f"{100 * summary.folded_share:.3f} ± {100 * summary.folded_share_std:.3f}",
        ]
        best = ["–"] * 6
        if summary.best:
            best = [
                *(f"{value:g}" for value in summary.best.combination),
                f"{summary.best.dice:.3f}",
                f"{100 * summary.best.folded_share:.3f}",
            ]
        lines.append([summary.method, *statistics, *best])
    table = markdown_table(header, lines)
    numbers = f"pairs ({summaries[0].pairs}) and combinations of settings ({summaries[0].combinations})"
    caption = (
        f"Means over {numbers} ± std over combinations, as in Table 4; "
        f"best: highest Dice among combinations that fold less than {bound}"
    )
    return f"{caption}\n\n{table}"


def draw_sweep(out: Path, rows: Sequence[ResultRow]) -> None:
    """Draw Dice and folds against λ, as in Fig. 10.

    One box per method and λ, one point per combination.

    Args:
        out: PNG file, written atomically.
        rows: One row per pair, method and combination.
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
        for position, weight in enumerate(weights):
            shown = [point for point in of_method if point.combination.smoothness == weight]
            middle = position + width * (number - (len(by_method) - 1) / 2)
            # Spread the points, which would cover each other.
            spread = middle + np.linspace(-0.3, 0.3, len(shown) + 2)[1:-1] * width
            for axis, values in zip(
                axes, ([p.dice for p in shown], [100 * p.folded_share for p in shown]), strict=True
            ):
                axis.boxplot(
                    values, positions=[middle], widths=0.8 * width, showfliers=False, manage_ticks=False, **lines
                )
                axis.scatter(spread, values, s=14, color=f"C{number}", alpha=0.5, linewidths=0, zorder=3)
        axes[0].scatter([], [], color=f"C{number}", label=method)
    axes[1].axhline(100 * MAX_FOLDED_SHARE, color="0.4", linestyle="--", linewidth=1, label="bound of the best")
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
    rows = []
    for summary in summaries:
        best = summary.best
        best_cells = [*best.combination, best.dice, best.folded_share] if best else [None] * 6
        rows.append([*(getattr(summary, name) for name in columns), *best_cells])
    write_csv(path, [*columns, *(f"best_{name}" for name in (*Combination._fields, "dice", "folded_share"))], rows)
