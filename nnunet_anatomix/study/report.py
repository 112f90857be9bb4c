"""What the runs of a study come to: cases, a table of means as in Table 1, a curve over labelled scans as in Fig. 8."""

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
class Row:
    """One structure of one case, segmented by one run."""

    start: str
    shots: int
    seed: int
    case: str
    label: str
    dice: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One start with one number of shots.

    Attributes:
        dice: Mean over subjects; of a subject, over its labels and the seeds.
        std: Of ``dice``, bootstrapped over the subjects.
        by_seed: Seed → mean over its subjects.
        by_label: Label → mean over subjects and seeds.
    """

    start: str
    shots: int
    dice: float
    std: float
    by_seed: dict[int, float]
    by_label: dict[str, float]


def rows_of(run: Run, dice: Iterable[CaseDice]) -> list[Row]:
    """What a run reached, one row a case and label."""
    return [Row(start=run.start.name, shots=run.shots, seed=run.seed, **asdict(one)) for one in dice]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, whole or not at all."""
    write_records(path, Row, rows)


def read_rows(path: Path) -> list[Row]:
    """Read what :func:`write_rows` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                start=row["start"],
                shots=int(row["shots"]),
                seed=int(row["seed"]),
                case=row["case"],
                label=row["label"],
                dice=float(row["dice"]),
            )
            for row in csv.DictReader(file)
        ]


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Means of every start and number of shots, in the order in which they come; fewest shots first."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.start, row.shots), []).append(row)
    summaries = []
    for (start, shots), members in groups.items():
        means = _subjects(members)
        by_seed = {
            seed: float(_subjects([row for row in members if row.seed == seed]).mean())
            for seed in _different(members, "seed")
        }
        by_label = {
            label: float(_subjects([row for row in members if row.label == label]).mean())
            for label in _different(members, "label")
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


def write_report(out: Path, rows: Sequence[Row], title: str) -> str:
    """Write ``cases.csv``, ``table.csv``, ``table.md`` and ``curve.png`` into ``out``.

    Returns:
        The table, as Markdown.
    """
    summaries = summarize(rows)
    text = markdown(summaries, title, subjects=len(_different(rows, "case")))
    write_rows(out / "cases.csv", rows)
    columns = [
        "start",
        "shots",
        "dice",
        "std",
        *(f"seed_{seed}" for seed in _different(rows, "seed")),
        *_different(rows, "label"),
    ]
    write_csv(
        out / "table.csv",
        columns,
        [
            [one.start, one.shots, one.dice, one.std]
            + [one.by_seed.get(seed, "") for seed in _different(rows, "seed")]
            + [one.by_label.get(label, "") for label in _different(rows, "label")]
            for one in summaries
        ],
    )
    write_text(out / "table.md", text)
    with atomic_write(out / "curve.png") as partial:
        draw_curve(partial, summaries, title)
    return text


def markdown(summaries: Sequence[Summary], title: str, *, subjects: int) -> str:
    """The table: the best mean of every number of shots is bold, the second is underlined."""
    labels = list(dict.fromkeys(label for one in summaries for label in one.by_label))
    header = ["shots", "start", "Dice", "each seed", *labels]
    lines = []
    for one in summaries:
        ranked = sorted((other.dice for other in summaries if other.shots == one.shots), reverse=True)
        mean = f"{one.dice:.3f}"
        if len(ranked) > 1:
            mean = f"**{mean}**" if one.dice == ranked[0] else f"<u>{mean}</u>" if one.dice == ranked[1] else mean
        seeds = " ".join(f"{dice:.3f}" for dice in one.by_seed.values())
        lines.append(
            [
                str(one.shots),
                one.start,
                f"{mean} ({one.std:.3f})",
                seeds,
                *(f"{one.by_label.get(label, np.nan):.3f}" for label in labels),
            ]
        )
    table = markdown_table(header, lines)
    return f"{title}; mean Dice of {subjects} scans never trained on, in brackets its std bootstrapped over the scans\n\n{table}"


def draw_curve(out: Path, summaries: Sequence[Summary], title: str) -> None:
    """Draw Dice over labelled scans: a line a start with bootstrapped std, and a dot a seed.

    Args:
        out: The ``.png`` file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    starts = list(dict.fromkeys(one.start for one in summaries))
    for number, start in enumerate(starts):
        mine = [one for one in summaries if one.start == start]
        # Side by side, where one would cover the other.
        place = [one.shots * (1 + 0.03 * (number - (len(starts) - 1) / 2)) for one in mine]
        axis.errorbar(
            place,
            [one.dice for one in mine],
            [one.std for one in mine],
            label=start,
            marker="o",
            capsize=3,
            color=f"C{number}",
        )
        for x, one in zip(place, mine, strict=True):
            axis.scatter([x] * len(one.by_seed), list(one.by_seed.values()), s=12, alpha=0.5, color=f"C{number}")
    shots = sorted({one.shots for one in summaries})
    axis.set_xscale("log")
    axis.set_xticks(shots, [str(number) for number in shots])
    axis.minorticks_off()
    axis.set_xlim(shots[0] * 0.8, shots[-1] * 1.25)
    axis.set(xlabel="labelled scans", ylabel="Dice on scans never trained on", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(out, dpi=150)


def _subjects(rows: Sequence[Row]) -> np.ndarray:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.case, []).append(row.dice)
    means = subject_means(values)
    return means if len(means) else np.array([np.nan])


def _different(rows: Sequence[Row], column: str) -> list:
    return list(dict.fromkeys(getattr(row, column) for row in rows))
