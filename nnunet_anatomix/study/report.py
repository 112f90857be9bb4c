"""Results of a study: case scores, a table of means (Table 1), a curve over shots (Fig. 8)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunet_anatomix.scores.statistics import CaseDice, bootstrap_std, subject_means
from nnunet_anatomix.study.runs import Run
from pretraining.common.atomic import atomic_write, write_text
from pretraining.common.tables import markdown_table, write_csv, write_records


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """Score of one structure of one case in one run."""

    start: str
    shots: int
    seed: int
    case: str
    label: str
    dice: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean scores of one start with one number of shots.

    Attributes:
        start: Name of the start.
        shots: Labelled scans to train on.
        dice: Mean Dice over subjects; a subject's Dice is the mean over its labels and the seeds.
        std: Standard deviation of ``dice``, bootstrapped over the subjects.
        by_seed: Mean Dice over subjects for each seed.
        by_label: Mean Dice over subjects and seeds for each label.
    """

    start: str
    shots: int
    dice: float
    std: float
    by_seed: dict[int, float]
    by_label: dict[str, float]


def score_run(run: Run, dice: Iterable[CaseDice]) -> list[RunScore]:
    """Return the scores of a run, one row per case and label."""
    return [RunScore(start=run.start.name, shots=run.shots, seed=run.seed, **asdict(case)) for case in dice]


def write_rows(path: Path, rows: Iterable[RunScore]) -> None:
    """Write rows as CSV, atomically."""
    write_records(path, RunScore, rows)


def read_rows(path: Path) -> list[RunScore]:
    """Read a file of :func:`write_rows`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            RunScore(
                start=row["start"],
                shots=int(row["shots"]),
                seed=int(row["seed"]),
                case=row["case"],
                label=row["label"],
                dice=float(row["dice"]),
            )
            for row in csv.DictReader(file)
        ]


def summarize(rows: Sequence[RunScore]) -> list[Summary]:
    """Compute the mean scores of every start and number of shots.

    Args:
        rows: Scores of all runs.

    Returns:
        Summaries, fewest shots first; starts in order of their first row.
    """
    groups: dict[tuple[str, int], list[RunScore]] = {}
    for row in rows:
        groups.setdefault((row.start, row.shots), []).append(row)
    summaries = []
    for (start, shots), members in groups.items():
        means = _mean_by_subject(members)
        by_seed = {
            seed: float(_mean_by_subject([row for row in members if row.seed == seed]).mean())
            for seed in _unique(members, "seed")
        }
        by_label = {
            label: float(_mean_by_subject([row for row in members if row.label == label]).mean())
            for label in _unique(members, "label")
        }
        summaries.append(
            Summary(
                start=start,
                shots=shots,
                dice=float(means.mean()),
                std=bootstrap_std(means),
                by_seed=by_seed,
                by_label=by_label,
            )
        )
    return sorted(summaries, key=lambda summary: summary.shots)


def write_report(out: Path, rows: Sequence[RunScore], title: str) -> str:
    """Write ``cases.csv``, ``table.csv``, ``table.md`` and ``curve.png``.

    Args:
        out: Folder for the files.
        rows: Scores of all runs.
        title: Title of table and curve.

    Returns:
        Table, as Markdown.
    """
    summaries = summarize(rows)
    text = markdown(summaries, title, subjects=len(_unique(rows, "case")))
    write_rows(out / "cases.csv", rows)
    columns = [
        "start",
        "shots",
        "dice",
        "std",
        *(f"seed_{seed}" for seed in _unique(rows, "seed")),
        *_unique(rows, "label"),
    ]
    write_csv(
        out / "table.csv",
        columns,
        [
            [summary.start, summary.shots, summary.dice, summary.std]
            + [summary.by_seed.get(seed, "") for seed in _unique(rows, "seed")]
            + [summary.by_label.get(label, "") for label in _unique(rows, "label")]
            for summary in summaries
        ],
    )
    write_text(out / "table.md", text)
    with atomic_write(out / "curve.png") as partial:
        draw_curve(partial, summaries, title)
    return text


def markdown(summaries: Sequence[Summary], title: str, *, subjects: int) -> str:
    """Format the summaries as a Markdown table.

    For each number of shots, the best mean is bold and the second best underlined.

    Args:
        summaries: Mean scores.
        title: First words of the text.
        subjects: Number of test scans.
    """
    labels = list(dict.fromkeys(label for summary in summaries for label in summary.by_label))
    header = ["shots", "start", "Dice", "each seed", *labels]
    lines = []
    for summary in summaries:
        ranked = sorted((other.dice for other in summaries if other.shots == summary.shots), reverse=True)
        mean = f"{summary.dice:.3f}"
        if len(ranked) > 1:
            mean = (
                f"**{mean}**" if summary.dice == ranked[0] else f"<u>{mean}</u>" if summary.dice == ranked[1] else mean
            )
        seeds = " ".join(f"{dice:.3f}" for dice in summary.by_seed.values())
        lines.append(
            [
                str(summary.shots),
                summary.start,
                f"{mean} ({summary.std:.3f})",
                seeds,
                *(f"{summary.by_label.get(label, np.nan):.3f}" for label in labels),
            ]
        )
    table = markdown_table(header, lines)
    return (
        f"{title}; mean Dice of {subjects} held-out scans, in brackets its std bootstrapped over the scans\n\n{table}"
    )


def draw_curve(out: Path, summaries: Sequence[Summary], title: str) -> None:
    """Plot Dice over labelled scans: one line per start with bootstrapped std, one dot per seed.

    Args:
        out: File to write, ``.png``.
        summaries: Mean scores.
        title: Title of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    starts = list(dict.fromkeys(summary.start for summary in summaries))
    for number, start in enumerate(starts):
        own = [summary for summary in summaries if summary.start == start]
        # Shift the starts slightly, so that markers do not overlap.
        positions = [summary.shots * (1 + 0.03 * (number - (len(starts) - 1) / 2)) for summary in own]
        axis.errorbar(
            positions,
            [summary.dice for summary in own],
            [summary.std for summary in own],
            label=start,
            marker="o",
            capsize=3,
            color=f"C{number}",
        )
        for x, summary in zip(positions, own, strict=True):
            axis.scatter(
                [x] * len(summary.by_seed), list(summary.by_seed.values()), s=12, alpha=0.5, color=f"C{number}"
            )
    shots = sorted({summary.shots for summary in summaries})
    axis.set_xscale("log")
    axis.set_xticks(shots, [str(number) for number in shots])
    axis.minorticks_off()
    axis.set_xlim(shots[0] * 0.8, shots[-1] * 1.25)
    axis.set(xlabel="labelled scans", ylabel="Dice on held-out scans", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(out, dpi=150)


def _mean_by_subject(rows: Sequence[RunScore]) -> np.ndarray:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.case, []).append(row.dice)
    means = subject_means(values)
    return means if len(means) else np.array([np.nan])


def _unique(rows: Sequence[RunScore], column: str) -> list:
    return list(dict.fromkeys(getattr(row, column) for row in rows))
