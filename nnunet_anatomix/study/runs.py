"""The runs of a study: where each starts, what it trains on, and the stock commands that make it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.finetuning.splits import SPLITS_FILE, Fold
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_positive
from pretraining.common.child import run_child
from pretraining.common.errors import InputError
from pretraining.common.lock import LOCK

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
OUR_PLANS, STOCK_PLANS = "nnUNetAnatomixPlans", "nnUNetPlans"
PREPROCESSED = "nnUNet_preprocessed"
"""Folder of nnU-Net's, one of the study and one of each run."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What all runs of a study share."""

    dataset: str
    """Its name, ``DatasetXXX_NAME``."""
    iterations: int = 37_500
    """Optimizer steps of every run, stock nnU-Net's included."""
    max_patch: int | None = None
    """Longest side of a patch, voxels; None leaves the plans as they are."""
    batch: int | None = None
    """Patches a step; None leaves the plans as they are."""
    patch: tuple[int, int, int] | None = None
    """Of our plans, voxels, slices first; None leaves it as planned. Stock nnU-Net's plan keeps its
    own.
    """
    spacing_mm: tuple[float, float, float] | None = None
    """Grid of our plans, slices first; None leaves it as planned. Stock nnU-Net's plan keeps its
    own.
    """

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations, max_patch=self.max_patch, batch=self.batch, patch=self.patch)
        check_positive(spacing_mm=self.spacing_mm)


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """Where a network starts from.

    Attributes:
        name: In tables and folders.
        trainer: nnU-Net's ``-tr``.
        plans: nnU-Net's ``-p``.
        weights: File or ``hf://`` address; empty for the plan's own.
    """

    name: str
    trainer: str = "AnatomixTrainer"
    plans: str = OUR_PLANS
    weights: str = ""


BY_NAME = {
    "weights": StartWeights(name="weights"),
    "scratch": StartWeights(name="scratch", trainer="AnatomixTrainerScratch"),
    "stock": StartWeights(name="stock", trainer="AnatomixTrainerStock", plans=STOCK_PLANS),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    start: StartWeights
    shots: int
    """Cases to train on."""
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.start.name}_shots{self.shots}_seed{self.seed}"


def starts_of(asked: Sequence[str]) -> dict[str, StartWeights]:
    """Name → start, for names of :data:`BY_NAME` and weights files, which are called by their file's name.

    Raises:
        InputError: For a file that is not there, or two of one name.
    """
    starts: dict[str, StartWeights] = {}
    for text in dict.fromkeys(asked):
        start = BY_NAME.get(text) or StartWeights(name=start_name(text), weights=text)
        if text.endswith(".json"):
            raise InputError(
                f"{text} makes features only; a study starts from weights of our backbone, .safetensors or published .pth"
            )
        if start.weights and not text.startswith("hf://"):
            if not Path(text).is_file():
                raise InputError(f"expected a start among {sorted(BY_NAME)}, or a file of weights; found '{text}'")
            start = StartWeights(name=start.name, weights=str(Path(text).resolve()))
        if start.name in starts or (start.weights and start.name in BY_NAME):
            raise InputError(
                f"two starts would be called '{start.name}'; rename the file, its name stands in the tables"
            )
        starts[start.name] = start
    return starts


def start_name(text: str) -> str:
    """What a start is called in tables and folders: its own name, or that of its file."""
    return text if text in BY_NAME else re.sub(r"[^\w.-]", "_", Path(text).stem)


def cut_plan(
    plan: Mapping[str, Any], max_patch: int | None, batch: int | None, patch: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """A plan with another batch, and another patch or its own cut to ``max_patch`` voxels a side, in steps that its poolings can halve.

    Raises:
        InputError: If the network pools more often than such a patch allows.
    """
    cut: dict[str, Any] = json.loads(json.dumps(plan))
    configuration = cut["configurations"][CONFIGURATION]
    steps = np.prod(configuration["architecture"]["arch_kwargs"]["strides"], axis=0).astype(int)
    if patch is not None:
        if np.mod(patch, steps).any():
            raise InputError(
                f"{plan['plans_name']} pools {steps.tolist()} voxels into one: expected a patch of multiples, found {patch}"
            )
        configuration["patch_size"] = list(patch)
    if max_patch is not None:
        if steps.max() > max_patch:
            raise InputError(
                f"{plan['plans_name']} pools {steps.tolist()} voxels into one: expected patches of at least {steps.max()}"
            )
        configuration["patch_size"] = np.minimum(configuration["patch_size"], max_patch // steps * steps).tolist()
    configuration["batch_size"] = batch or configuration["batch_size"]
    return cut


def prepare(out: Path, settings: StudySettings, starts: Collection[StartWeights]) -> None:
    """Plan and preprocess below ``out``, once for every plan that a start needs, and cut the patches."""
    from nnunet_anatomix.finetuning.planning import (
        planning_environment,  # imports torch, which reading results does without
    )

    preprocessed = out / PREPROCESSED / settings.dataset
    preprocessed.mkdir(parents=True, exist_ok=True)
    planning = {
        STOCK_PLANS: ["nnUNetv2_plan_and_preprocess", "-d", str(int(settings.dataset[7:10])), "-c", CONFIGURATION],
        OUR_PLANS: ["nnunet-anatomix", "plan-and-preprocess", "-d", settings.dataset],
    }
    if settings.spacing_mm is not None:
        planning[OUR_PLANS] += ["-overwrite_target_spacing", *map(str, settings.spacing_mm)]
    for plans in sorted({start.plans for start in starts}):
        path, prepared = preprocessed / f"{plans}.json", preprocessed / f"{plans}.prepared"
        if not prepared.is_file():
            log.info("planning and preprocessing %s with %s", settings.dataset, plans)
            run_child(planning[plans], planning_environment(_environment(out / PREPROCESSED, out)), out / "log.txt")
            patch = settings.patch if plans == OUR_PLANS else None
            plan = cut_plan(json.loads(path.read_text(encoding="utf-8")), settings.max_patch, settings.batch, patch)
            write_text(path, json.dumps(plan, indent=2))
            prepared.touch()


def carry_out(run: Run, settings: StudySettings, fold: Fold | None, out: Path, tests: Path | None, device: str) -> Path:
    """Train one network and test it; a training that was stopped continues from its last checkpoint.

    Args:
        run: Which one.
        settings: Of the study.
        fold: From :func:`~nnunet_anatomix.finetuning.splits.draw_folds`; None for nnU-Net's fold
            ``all``.
        out: Folder of the study.
        tests: Raw dataset with ``imagesTs`` and ``labelsTs``; without it, nnU-Net's validation
            after training is the test.
        device: For nnU-Net's ``-device``.

    Returns:
        nnU-Net's ``summary.json`` of the test.
    """
    folder = out / "runs" / run.name
    environment = _environment(
        own_folds(out / PREPROCESSED / settings.dataset, fold, folder / PREPROCESSED), folder
    ) | {
        "ANATOMIX_ITERATIONS": str(settings.iterations),
        "ANATOMIX_SEED": str(run.seed),
        "ANATOMIX_WEIGHTS": run.start.weights,
    }
    for command in _commands(run, settings, "all" if fold is None else "0", folder.resolve(), tests, device):
        run_child(command, environment, folder / "log.txt")
    if tests is not None:
        return folder / "predictions" / "summary.json"
    return (
        folder
        / settings.dataset
        / f"{run.start.trainer}__{run.start.plans}__{CONFIGURATION}"
        / "fold_0"
        / "validation"
        / "summary.json"
    )


def own_folds(shared: Path, fold: Fold | None, out: Path) -> Path:
    """Make a preprocessed folder of nnU-Net's that has folds of its own, and everything else in common with ``shared``.

    nnU-Net's trainers read their folds from ``splits_final.json`` in the dataset's preprocessed
    folder. Runs that shared that file would train on each other's cases as soon as two of them run
    at once.

    Args:
        shared: Preprocessed folder of one dataset.
        fold: Number 0 of the folds; None leaves them out, for fold ``all``.
        out: To take the place of ``nnUNet_preprocessed``; filled with relative links, or with
            copies where a disk has no links.

    Returns:
        ``out``.
    """
    own = out / shared.name
    own.mkdir(parents=True, exist_ok=True)
    for entry in shared.iterdir():
        link = own / entry.name
        if entry.name == SPLITS_FILE or entry.name.startswith(LOCK) or link.exists():
            continue
        try:
            link.unlink(missing_ok=True)  # of a study that was moved
            link.symlink_to(os.path.relpath(entry.resolve(), own.resolve()), target_is_directory=entry.is_dir())
        except (OSError, NotImplementedError):
            if entry.is_dir():
                shutil.copytree(entry, link)
            else:
                shutil.copy2(entry, link)
    if fold is not None:
        write_text(own / SPLITS_FILE, json.dumps([fold], indent=2))
    return out


def _commands(
    run: Run, settings: StudySettings, fold: str, folder: Path, tests: Path | None, device: str
) -> Iterator[list[str]]:
    model = ["-tr", run.start.trainer, "-p", run.start.plans, "-device", device]
    yield ["nnUNetv2_train", settings.dataset, CONFIGURATION, fold, *model, "--c"]
    if tests is not None:
        predictions = folder / "predictions"
        yield [
            *("nnUNetv2_predict", "-i", str(tests / "imagesTs"), "-o", str(predictions)),
            *("-d", settings.dataset, "-c", CONFIGURATION, "-f", fold, *model),
        ]
        described = ["-djfile", str(predictions / "dataset.json"), "-pfile", str(predictions / "plans.json")]
        yield ["nnUNetv2_evaluate_folder", str(tests / "labelsTs"), str(predictions), *described]


def _environment(preprocessed: Path, results: Path) -> dict[str, str]:
    folders = {"nnUNet_preprocessed": preprocessed, "nnUNet_results": results}
    return {**os.environ, **{name: str(folder.resolve()) for name, folder in folders.items()}}
