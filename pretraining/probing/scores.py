"""Scores of features: means over subjects, a Markdown table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.tables import markdown_table
from pretraining.probing.local_rate import CANDIDATES


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one kind of features from one modality to another.

    Attributes:
        features: Name of the kind of features.
        collection: Name of the images' collection.
        subject: Name of the subject, or the number of subjects of a mean.
        first: Modality of the first image.
        second: Modality of the second image.
        frame: Name of the second image's frame, see :data:`pretraining.probing.frames.FRAMES`.
        for_choosing: Whether settings may be chosen by this score; otherwise it is only reported.
        place: Description of what counts as a match.
        nearest: Rate by :func:`pretraining.probing.correspondence.nearest_rate`.
        separation: Probability by :func:`pretraining.probing.correspondence.separation`; by chance
            1/2.
        local: Rate by :func:`pretraining.probing.local_rate.local_rate`; by chance 1/125.
        chance: Rate ``nearest`` of uninformative features.
    """

    features: str
    collection: str
    subject: str
    first: str
    second: str
    frame: str
    for_choosing: bool
    place: str
    nearest: float
    separation: float
    local: float
    chance: float


def mean_scores(scores: Iterable[Score]) -> list[Score]:
    """Average scores over the subjects of each collection, in the order of first appearance.

    Args:
        scores: Scores of single subjects.
    """
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.collection, score.first, score.second, score.frame, score.features), []).append(score)

    def mean(group: list[Score]) -> Score:
        numbers = {
            name: sum(getattr(score, name) for score in group) / len(group)
            for name in ("nearest", "separation", "local", "chance")
        }
        return replace(group[0], subject=group[0].subject if len(group) == 1 else f"mean of {len(group)}", **numbers)

    return [mean(group) for group in groups.values()]


def table(scores: Iterable[Score], samples: Mapping[str, float] | None = None) -> str:
    """Format the mean scores as a Markdown table.

    Args:
        scores: Scores from :func:`pretraining.probing.judge.judge`.
        samples: Rates from :func:`pretraining.probing.judge.judge_samples`, for one more row.

    Returns:
        A row for each pair of modalities and frame, a column for each kind of features with
        nearest / separation / local.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for score in mean_scores(scores):
        purpose = "for choosing" if score.for_choosing else "only reported"
        pair = f"{score.first.upper()} → {score.second.upper()}"
        images = f"{score.collection}, {score.subject}"
        row = (images, pair, score.frame, score.place, purpose, f"{score.chance:.3f}")
        rows.setdefault(row, {})[score.features] = f"{score.nearest:.3f} / {score.separation:.3f} / {score.local:.3f}"
        columns[score.features] = None
    if samples:
        columns |= dict.fromkeys(samples)
        chance = f"{1 / CANDIDATES:.3f}"
        row = ("synthetic samples", "view 1 → view 2", "moved", "the same voxel", "for choosing", chance)
        rows[row] = {name: f"– / – / {rate:.3f}" for name, rate in samples.items()}
    header = ("images", "pair", "frame", "nearest neighbour", "use", "chance", *columns)
    return markdown_table(
        header, ((*row, *(cells.get(column, "–") for column in columns)) for row, cells in rows.items())
    )


def write_scores(path: Path, scores: list[Score], **about: Any) -> None:
    """Write mean scores and those of every subject as JSON, atomically.

    Args:
        path: File to write.
        scores: Scores of single subjects.
        **about: Further entries of the file.
    """
    document = {
        **about,
        "scores": [asdict(score) for score in mean_scores(scores)],
        "subjects": [asdict(score) for score in scores],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
