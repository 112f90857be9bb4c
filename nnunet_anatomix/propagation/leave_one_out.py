"""Leave-one-out: the Dice to expect, and the preset and rule of fusion that reach the best one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan, sqrt
from pathlib import Path

import numpy as np
from scipy import stats

from nnunet_anatomix.propagation.fusion import Fusion
from nnunet_anatomix.propagation.labelled_scans import LabelledScans
from nnunet_anatomix.propagation.presets import SOLVER, PresetName, configure
from nnunet_anatomix.propagation.propagate import Resources, fuse_atlases, register_atlas
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.scores.segmentation import dice_by_structure
from pretraining.common.atomic import write_text
from pretraining.common.batch import run_batch
from pretraining.common.fingerprint import file_state, fingerprint
from pretraining.common.tables import markdown_table, write_records

log = logging.getLogger(__name__)

FUSIONS: tuple[Fusion, ...] = ("local", "joint", "vote")
"""Rules of the vote to compare; of equally good ones the first is chosen."""


@dataclass(frozen=True, kw_only=True)
class LeftOutScore:
    """Score of one structure of a labelled scan, labelled by the others.

    Attributes:
        case: Name of the scan.
        preset: Preset of the registration.
        fusion: Rule of the vote.
        label: Name of the structure.
        dice: Dice in [0, 1]; NaN if neither truth nor result has the structure.
        agreement: Agreement of the atlases on the scan, in [0, 1].
        difference: Mean squared difference of descriptors of the scan and the registered atlases.
    """

    case: str
    preset: PresetName
    fusion: Fusion
    label: str
    dice: float
    agreement: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Dice to expect on a new scan like the labelled ones.

    Attributes:
        preset: Best preset.
        fusion: Best rule of the vote.
        dice: Mean Dice over the scans that were left out.
        low: Lower bound of the 95 % interval of that mean; NaN for a single scan.
        high: Upper bound.
        scans: Number of scans.
        difference: Mean squared difference of descriptors, averaged over the scans.
    """

    preset: PresetName
    fusion: Fusion
    dice: float
    low: float
    high: float
    scans: int
    difference: float

    def __str__(self) -> str:
        interval = "" if isnan(self.low) else f" (95 % interval of the mean {self.low:.3f} to {self.high:.3f})"
        return (
            f"Dice {self.dice:.3f}{interval} on {self.scans} left-out scans; preset {self.preset}, fusion {self.fusion}"
        )


def leave_one_out(
    scans: LabelledScans,
    out: Path,
    descriptors: DescriptorConfig,
    resources: Resources,
    *,
    cases: Sequence[str],
    presets: Sequence[PresetName],
    fusions: Sequence[Fusion],
    network_sha256: str | None = None,
) -> list[LeftOutScore]:
    """Label each case by all other labelled scans, and score the result.

    Args:
        scans: Labelled scans, at least two.
        out: Folder for one file per case and preset; a later call reuses them.
        descriptors: Descriptors that are compared.
        resources: Network, memory and device.
        cases: Cases to leave out.
        presets: Presets to try.
        fusions: Rules of the vote to try.
        network_sha256: Checksum of the network's weights.

    Returns:
        The scores.

    Raises:
        CommandFailed: If a case fails, after all others.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    inputs = [file_state(file) for name in scans.names for file in scans.files(name)]
    jobs = {f"{case}, {preset}": (case, preset) for preset in presets for case in cases}
    found: dict[str, list[LeftOutScore]] = {}

    def file_of(job: tuple[str, PresetName]) -> Path:
        return out / f"{job[0]}_{job[1]}.json"

    def digest(job: tuple[str, PresetName]) -> str:
        return fingerprint([inputs, job, asdict(SOLVER), fusions, asdict(descriptors), resources.clips, network_sha256])

    def is_done(job: tuple[str, PresetName]) -> bool:
        scores = _read(file_of(job), digest(job))
        if scores is not None:
            found[f"{job[0]}, {job[1]}"] = scores
        return scores is not None

    def work(job: tuple[str, PresetName]) -> None:
        scores = _score(scans, *job, descriptors, resources, fusions)
        record = {"fingerprint": digest(job), "scores": [asdict(score) for score in scores]}
        write_text(file_of(job), json.dumps(record, indent=1) + "\n")
        found[f"{job[0]}, {job[1]}"] = scores

    run_batch(jobs, work, noun="left-out scan", is_done=is_done).require_all("left-out scans")
    return [score for name in jobs for score in found[name]]


def _score(
    scans: LabelledScans,
    case: str,
    preset: PresetName,
    descriptors: DescriptorConfig,
    resources: Resources,
    fusions: Sequence[Fusion],
) -> list[LeftOutScore]:
    scan = scans.read(case)
    config = configure(preset, fusions[0], descriptors, scan.channels[0])
    registered = [
        register_atlas(scan.channels, scans.read(name), config.registration, resources)
        for name in scans.names
        if name != case
    ]
    truth = scan.labels if scans.ignore is None else np.where(scan.labels == scans.ignore, 0, scan.labels)
    scores = []
    for fusion in fusions:
        result = fuse_atlases(
            scan.channels[0],
            registered,
            configure(preset, fusion, descriptors, scan.channels[0]),
            ignore=scans.ignore,
        )
        labels = result.labels
        if scans.ignore is not None:
            labels = np.where(scan.labels == scans.ignore, 0, labels)
        scores += [
            LeftOutScore(
                case=case,
                preset=preset,
                fusion=fusion,
                label=label,
                dice=dice,
                agreement=round(result.agreement, 4),
                difference=result.difference,
            )
            for label, dice in dice_by_structure(truth, labels, scans.description.foreground).items()
        ]
    return scores


def choose(scores: Iterable[LeftOutScore]) -> Expectation:
    """Choose the settings with the best mean Dice.

    Args:
        scores: Scores of at least one scan.

    Returns:
        The settings and their Dice. The interval of the mean is Student's.
    """
    scores = list(scores)
    by_settings: dict[tuple[PresetName, Fusion], dict[str, list[float]]] = {}
    for score in scores:
        if not isnan(score.dice):
            cases = by_settings.setdefault((score.preset, score.fusion), {})
            cases.setdefault(score.case, []).append(score.dice)
    means = {key: [float(np.mean(dice)) for dice in cases.values()] for key, cases in by_settings.items()}
    preset, fusion = max(means, key=lambda key: np.mean(means[key]))
    best = means[preset, fusion]
    low, high = interval_of_mean(best)
    chosen = {score.case: score.difference for score in scores if (score.preset, score.fusion) == (preset, fusion)}
    return Expectation(
        preset=preset,
        fusion=fusion,
        dice=float(np.mean(best)),
        low=low,
        high=high,
        scans=len(best),
        difference=float(np.mean(list(chosen.values()))),
    )


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95 % interval of a mean of Dice values; NaN for a single value."""
    if len(values) < 2:
        return nan, nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values)))
    return max(0.0, float(np.mean(values)) - half), min(1.0, float(np.mean(values)) + half)


def write_scores(out: Path, scores: Sequence[LeftOutScore]) -> str:
    """Write all scores as ``leave_one_out.csv``, and return the table of means as Markdown."""
    write_records(out / "leave_one_out.csv", LeftOutScore, scores)
    settings = list(dict.fromkeys((score.preset, score.fusion) for score in scores))
    dice: dict[str, dict[tuple[PresetName, Fusion], list[float]]] = {}
    for score in scores:
        if not isnan(score.dice):
            dice.setdefault(score.label, {}).setdefault((score.preset, score.fusion), []).append(score.dice)
    means = [choose([score for score in scores if (score.preset, score.fusion) == key]).dice for key in settings]
    rows = [["mean", *(f"{mean:.3f}" for mean in means)]]
    for label, found in dice.items():
        rows.append([label, *(f"{np.mean(found[key]):.3f}" if key in found else "" for key in settings)])
    return markdown_table(["structure", *(", ".join(key) for key in settings)], rows)


def evenly(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return ``count`` names, evenly spread over the sorted names."""
    if count >= len(names):
        return tuple(names)
    return tuple(names[round(index)] for index in np.linspace(0, len(names) - 1, count))


def _read(path: Path, digest: str) -> list[LeftOutScore] | None:
    try:
        record: Mapping = json.loads(path.read_text(encoding="utf-8"))
        if record["fingerprint"] != digest:
            return None
        return [LeftOutScore(**score) for score in record["scores"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
