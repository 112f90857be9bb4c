"""The commands that tables are made of, and how their results are read."""

from __future__ import annotations

import csv
import re
from math import isfinite
from pathlib import Path

import numpy as np

from nnunet_anatomix.reproduce.plan import Step, Tuned
from nnunet_anatomix.reproduce.settings import Settings
from nnunet_anatomix.reproduce.sources import PairSource, SegmentationSource
from nnunet_anatomix.study.report import read_rows, summarize
from nnunet_anatomix.study.runs import start_name
from pretraining.errors import InputError

SETTING_FLAGS = {"smoothness": "--smoothness", "grid_spacing": "--grid-spacing", "reach": "--reach", "adam_spacing": "--adam-spacing"}
"""Column of a search's summary, after ``best_`` → flag of ``register``."""
_BEFORE_SEARCH = ("0.75", "2", "1", "2")
"""Shown for them in a dry run: the published defaults."""


def our_start(settings: Settings) -> str:
    """Where the row Ours starts."""
    return settings.weights or "weights"


def study_step(
    settings: Settings,
    source: SegmentationSource,
    starts: tuple[str, ...],
    shots: tuple[int, ...] = (),
    after: tuple[str, ...] = (),
) -> Step:
    """Fine-tune and test; all training volumes where no shots are named."""
    scale = settings.scale
    names = "+".join(start_name(start) for start in starts)
    command: list[str | Path | Tuned] = ["nnunet-anatomix", "study", "-d", source.folder, "--out", study_folder(settings, source)]
    if shots:
        command += ["--shots", *map(str, shots)]
    command += ["--seeds", *map(str, scale.seeds), "--starts", *starts, "--iterations", str(scale.iterations)]
    if scale.max_patch is not None:
        command += ["--max-patch", str(scale.max_patch)]
    elif source.crop is not None and source.spacing_mm is not None:
        command += ["--patch", *[str(source.crop)] * 3, "--spacing", *(f"{spacing:g}" for spacing in reversed(source.spacing_mm))]
    if batch := scale.batch or source.batch:
        command += ["--batch", str(batch)]
    budget = "all" if not shots else "-".join(map(str, shots))
    return Step(name=f"study_{source.folder}_{budget}_{names}", command=(*command, "--device", settings.device), after=after)


def study_folder(settings: Settings, source: SegmentationSource) -> Path:
    """Of one dataset, for all tables."""
    return settings.out / "studies" / source.folder


def study_dice(settings: Settings, source: SegmentationSource, start: str, shots: int | None) -> str:
    """Mean Dice and its bootstrapped std, as the paper prints them; all training volumes where ``shots`` is None."""
    runs = study_folder(settings, source) / "runs"
    name, rows = start_name(start), []
    budgets = {int(match[1]): None for path in runs.glob(f"{name}_shots*_seed*") if (match := re.search(r"_shots(\d+)_seed", path.name))}
    for seed in settings.scale.seeds:
        rows += read_rows(runs / f"{name}_shots{max(budgets, default=0) if shots is None else shots}_seed{seed}" / "dice.csv")
    (summary,) = summarize(rows)
    return mean_and_std(summary.dice, summary.std)


def search_step(settings: Settings, source: PairSource) -> Step:
    """The paper's grid search on the pairs to tune on, for MIND-SSC alone and beside our features."""
    grid = settings.scale.grid
    values = {flag: getattr(grid, name) for name, flag in SETTING_FLAGS.items()}
    flags = [word for flag, numbers in values.items() for word in (flag, *(f"{number:g}" for number in numbers))]
    command = ("nnunet-anatomix", "search", "--pairs", source.folder / "validation.csv", "--out", search_folder(settings, source), *flags)
    ours = () if settings.weights is None else ("--weights", settings.weights)
    return Step(name=f"search_{_slug(source.title)}", command=(*command, *ours, *_clips(source), "--device", settings.device))


def search_folder(settings: Settings, source: PairSource) -> Path:
    """Of the pairs' search."""
    return settings.out / "searches" / _slug(source.title)


def register_step(
    settings: Settings,
    source: PairSource,
    method: str,
    solver: str,
    features: str | Path | None,
    *,
    tuned: Tuned | None = None,
    after: tuple[str, ...] = (),
) -> Step:
    """Register the pairs to test on.

    Parameters
    ----------
    method : its name, of its folder.
    features : of ``register``; None for the bundled weights.
    tuned : settings that a search found.
    """
    command: list[str | Path | Tuned] = ["nnunet-anatomix", "register", "--pairs", source.folder / "test.csv"]
    command += ["--out", register_folder(settings, source, method), "--solver", solver, "--init", source.settings.init]
    command += [] if features is None else ["--features", features]
    command += ["--overlap", f"{settings.scale.overlap:g}", *_clips(source)]
    command += [tuned] if tuned is not None else []
    return Step(name=f"register_{_slug(source.title)}_{method}", command=(*command, "--device", settings.device), after=after)


def register_folder(settings: Settings, source: PairSource, method: str) -> Path:
    """Of one method on the pairs to test on."""
    return settings.out / "registrations" / _slug(source.title) / method


def pair_numbers(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean Dice and folded share of every pair of a batch.

    Raises
    ------
    InputError
        If there is no Dice: pairs without labels.
    """
    from nnunet_anatomix.registration.summary import pair_row, read_registrations

    rows = [pair_row(pair) for pair in read_registrations(folder)]
    dice = np.array([row.dice for row in rows])
    if not np.isfinite(dice).all():
        raise InputError(f"{folder}: pairs without Dice; the pairs to test on need labels")
    return dice, np.array([row.folded_share for row in rows])


def registration_dice(folder: Path) -> str:
    """Mean over pairs with its bootstrapped std."""
    from nnunet_anatomix.evaluation import bootstrap_std

    dice, _ = pair_numbers(folder)
    return mean_and_std(float(dice.mean()), bootstrap_std(dice))


def registration_median(folder: Path) -> str:
    """Median over pairs."""
    return _short(float(np.median(pair_numbers(folder)[0])))


def registration_folds(folder: Path) -> str:
    """Mean share of folded voxels."""
    return f"{100 * pair_numbers(folder)[1].mean():.2f}%"


def search_numbers(folder: Path, method: str) -> dict[str, str]:
    """One line of a search's ``summary.csv``."""
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return next(row for row in csv.DictReader(file) if row["method"] == method)


def tuned_flags(tuned: Tuned, *, dry: bool = False) -> list[str]:
    """Flags of the best settings that a search found.

    Raises
    ------
    InputError
        If all settings fold too much.
    """
    if dry and not (tuned.search / "summary.csv").is_file():
        return [word for pair in zip(SETTING_FLAGS.values(), _BEFORE_SEARCH, strict=True) for word in pair]
    row = search_numbers(tuned.search, tuned.method)
    if not row["best_smoothness"]:
        raise InputError(f"{tuned.search}: no settings of {tuned.method} fold less than .5 %; widen the search")
    return [word for name, flag in SETTING_FLAGS.items() for word in (flag, row[f"best_{name}"])]


def pretraining_steps(settings: Settings, preset: str, bank: Path | None) -> tuple[list[Step], Path]:
    """Pretrain by a preset and export: steps, and the weights file that they end in."""
    folder, scale = settings.out / "pretraining" / preset, settings.scale
    weights = folder / f"{preset}.safetensors"
    banked = () if bank is None else ("--templates", bank)
    train = ("anatomix-pretrain", "train", "--out", folder / "run", *banked, "--preset", preset, "--resume")
    small = ("--steps", str(scale.pretraining_steps), "--engine.side", str(scale.pretraining_side))
    every = ("--validate-every", str(min(1000, scale.pretraining_steps)))
    steps = [
        Step(name=f"pretrain_{preset}", command=(*train, *small, *every, "--device", settings.device)),
        Step(
            name=f"export_{preset}",
            command=("anatomix-pretrain", "export", folder / "run", "--out", weights),
            after=(f"pretrain_{preset}",),
        ),
    ]
    return steps, weights


def mean_and_std(mean: float, std: float) -> str:
    """``.89(.01)``, as the paper prints them; without std, where one subject leaves none."""
    return f"{_short(mean)}({_short(std)})" if isfinite(std) else _short(mean)


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def _clips(source: PairSource) -> list[str]:
    clips = {"--fixed-clip": source.settings.fixed_clip, "--moving-clip": source.settings.moving_clip}
    return [word for flag, clip in clips.items() if clip for word in (flag, *(f"{bound:g}" for bound in clip))]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
