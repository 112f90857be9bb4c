"""Runs of a study: initial weights, training cases, and the stock commands that execute them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_anatomix.finetuning.patch_size import set_patch
from nnunet_anatomix.finetuning.splits import SPLITS_FILE, Fold
from nnunet_anatomix.finetuning.start_kind import check_trust, is_other
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count, check_positive
from pretraining.common.child import run_child
from pretraining.common.errors import InputError
from pretraining.common.lock import LOCK

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
OUR_PLANS, STOCK_PLANS = "nnUNetAnatomixPlans", "nnUNetPlans"
PREPROCESSED = "nnUNet_preprocessed"
"""Name of nnU-Net's preprocessed folder; the study has one, and each run has one."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Settings that all runs of a study share."""

    dataset: str
    """Name of the dataset, ``DatasetXXX_NAME``."""
    iterations: int = 37_500
    """Optimizer steps of every run, including stock nnU-Net."""
    max_patch: int | None = None
    """Maximum side of a patch, voxels. Default: as planned."""
    batch: int | None = None
    """Patches per step. Default: as planned."""
    patch: tuple[int, int, int] | None = None
    """Patch size of our plan, voxels, slices first; not used for stock. Default: as planned."""
    spacing_mm: tuple[float, float, float] | None = None
    """Spacing of our plan, mm, slices first; not used for stock. Default: as planned."""
    recipe: Literal["ours", "paper"] = "ours"
    """How all starts but stock are trained: by AnatomixTrainer, or by AnatomixTrainerPaper."""

    def __post_init__(self) -> None:
        check_count(iterations=self.iterations, max_patch=self.max_patch, batch=self.batch, patch=self.patch)
        check_positive(spacing_mm=self.spacing_mm)


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """Initial state of a network: trainer, plan and weights.

    Attributes:
        name: Name in tables and folders.
        trainer: Value of nnU-Net's ``-tr``.
        plans: Value of nnU-Net's ``-p``.
        weights: File or ``hf://`` address; empty for the plan's own.
        planned_for: File of another network's weights, which has a plan of its own; empty for our
            plan.
    """

    name: str
    trainer: str = "AnatomixTrainer"
    plans: str = OUR_PLANS
    weights: str = ""
    planned_for: str = ""

    def as_in_paper(self) -> StartWeights:
        """Return this start trained by the recipe of the paper; stock remains as it is."""
        return replace(self, trainer=_TRAINERS_OF_PAPER.get(self.trainer, self.trainer))


_TRAINERS_OF_PAPER = {
    "AnatomixTrainer": "AnatomixTrainerPaper",
    "AnatomixTrainerScratch": "AnatomixTrainerPaperScratch",
}


BUILT_IN_STARTS = {
    "weights": StartWeights(name="weights"),
    "paper": StartWeights(name="paper", trainer="AnatomixTrainerPaper"),
    "scratch": StartWeights(name="scratch", trainer="AnatomixTrainerScratch"),
    "stock": StartWeights(name="stock", trainer="AnatomixTrainerStock", plans=STOCK_PLANS),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training with its test."""

    start: StartWeights
    shots: int
    """Number of training cases."""
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.start.name}_shots{self.shots}_seed{self.seed}"


def parse_starts(texts: Sequence[str]) -> dict[str, StartWeights]:
    """Return the starts that a command line names.

    Args:
        texts: Names of :data:`BUILT_IN_STARTS`, weights files or ``hf://`` addresses, ``.json``
            files of other networks, and checkpoints of nnssl.

    Returns:
        Start by name; a weights file has the name of :func:`start_name`.

    Raises:
        InputError: If a file does not exist, or if two starts have the same name.
    """
    starts: dict[str, StartWeights] = {}
    for text in dict.fromkeys(texts):
        start = BUILT_IN_STARTS.get(text) or StartWeights(name=start_name(text), weights=text)
        check_trust(text)
        if start.weights and not text.startswith("hf://"):
            if not Path(text).is_file():
                raise InputError(f"expected a start among {sorted(BUILT_IN_STARTS)}, or a weights file; found '{text}'")
            path = Path(text).resolve()
            if is_other(path):
                start = StartWeights(name=start.name, plans=f"{OUR_PLANS}_{start.name}", planned_for=str(path))
            else:
                start = StartWeights(name=start.name, weights=str(path))
        if start.name in starts or (start is not BUILT_IN_STARTS.get(text) and start.name in BUILT_IN_STARTS):
            raise InputError(
                f"two starts would be called '{start.name}'; rename the file, as its name is used in the tables"
            )
        starts[start.name] = start
    return starts


def start_name(text: str) -> str:
    """Return the name of a start in tables and folders: its own, or that of its weights file."""
    return text if text in BUILT_IN_STARTS else re.sub(r"[^\w.-]", "_", Path(text).stem)


def resize_patch(
    plan: Mapping[str, Any], max_patch: int | None, batch: int | None, patch: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Return a copy of a plan with another patch and batch size.

    Args:
        plan: nnU-Net's plan.
        max_patch: Maximum side of the patch, voxels; rounded down to what the poolings can halve.
            Default: no limit.
        batch: Patches per step. Default: as planned.
        patch: Patch size, voxels. Default: as planned.

    Raises:
        InputError: If the poolings of the network cannot halve the patch.
    """
    copy: dict[str, Any] = json.loads(json.dumps(plan))
    configuration = copy["configurations"][CONFIGURATION]
    multiples = np.prod(configuration["architecture"]["arch_kwargs"]["strides"], axis=0).astype(int)
    if patch is not None:
        if np.mod(patch, multiples).any():
            raise InputError(
                f"expected a patch of multiples of {multiples.tolist()} voxels, as {plan['plans_name']} pools so many "
                f"into one, found {patch}"
            )
        set_patch(configuration, patch)
    if max_patch is not None:
        if multiples.max() > max_patch:
            raise InputError(
                f"expected a maximum patch side of at least {multiples.max()} voxels, as {plan['plans_name']} pools "
                f"{multiples.tolist()} into one, found {max_patch}"
            )
        set_patch(configuration, np.minimum(configuration["patch_size"], max_patch // multiples * multiples).tolist())
    configuration["batch_size"] = batch or configuration["batch_size"]
    return copy


def prepare(out: Path, settings: StudySettings, starts: Collection[StartWeights]) -> None:
    """Plan and preprocess the dataset, once per plan that a start needs, and set the patch sizes.

    Args:
        out: Folder of the study.
        settings: Settings of the study.
        starts: Starts of the study.
    """
    preprocessed = out / PREPROCESSED / settings.dataset
    for plans, start in sorted({start.plans: start for start in starts}.items()):
        patch = None if plans == STOCK_PLANS else settings.patch
        path = preprocessed / f"{plans}.json"
        prepare_plan(_planning(start, settings), path, out, settings.max_patch, settings.batch, patch)


def prepare_plan(
    command: Sequence[str],
    path: Path,
    out: Path,
    max_patch: int | None,
    batch: int | None,
    patch: tuple[int, int, int] | None = None,
) -> None:
    """Plan and preprocess once, and set the patch size; a finished plan is kept.

    Args:
        command: Command that plans and preprocesses.
        path: Plans file that it writes, in the preprocessed folder of the dataset.
        out: Folder for ``log.txt``.
        max_patch: See :func:`resize_patch`.
        batch: See :func:`resize_patch`.
        patch: See :func:`resize_patch`.
    """
    # Imports torch, which is not needed to read results.
    from nnunet_anatomix.finetuning.stock_plan import planning_environment

    prepared = path.with_suffix(".prepared")
    if prepared.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    log.info("planning and preprocessing %s with %s", path.parent.name, path.stem)
    run_child(command, planning_environment(_environment(path.parents[1], out)), out / "log.txt")
    plan = resize_patch(json.loads(path.read_text(encoding="utf-8")), max_patch, batch, patch)
    write_text(path, json.dumps(plan, indent=2))
    prepared.touch()


def _planning(start: StartWeights, settings: StudySettings) -> list[str]:
    """Return the command that plans and preprocesses for a start."""
    if start.plans == STOCK_PLANS:
        return ["nnUNetv2_plan_and_preprocess", "-d", str(int(settings.dataset[7:10])), "-c", CONFIGURATION]
    command = ["nnunet-anatomix", "plan-and-preprocess", "-d", settings.dataset]
    if start.planned_for:
        command += ["--weights", start.planned_for, "-overwrite_plans_name", start.plans]
    if settings.max_patch is not None:
        command += ["--max-patch", str(settings.max_patch)]
    if settings.spacing_mm is not None:
        command += ["-overwrite_target_spacing", *map(str, settings.spacing_mm)]
    return command


def execute_run(
    run: Run, settings: StudySettings, fold: Fold | None, out: Path, tests: Path | None, device: str
) -> Path:
    """Train one network and test it; an interrupted training resumes from its last checkpoint.

    Args:
        run: Run to execute.
        settings: Settings of the study.
        fold: Fold of :func:`~nnunet_anatomix.finetuning.splits.draw_folds`; None for nnU-Net's fold
            ``all``.
        out: Folder of the study.
        tests: Raw dataset with ``imagesTs`` and ``labelsTs``; if None, nnU-Net's validation after
            training is the test.
        device: Value of nnU-Net's ``-device``.

    Returns:
        Path of nnU-Net's ``summary.json`` of the test.
    """
    folder = out / "runs" / run.name
    environment = _environment(
        link_preprocessed(out / PREPROCESSED / settings.dataset, fold, folder / PREPROCESSED), folder
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


def link_preprocessed(shared: Path, fold: Fold | None, out: Path) -> Path:
    """Create a preprocessed folder with its own folds and links to the shared data.

    nnU-Net's trainers read their folds from ``splits_final.json`` in the dataset's preprocessed
    folder. Concurrent runs that shared this file would train on each other's cases.

    Args:
        shared: Preprocessed folder of one dataset.
        fold: Fold 0; None writes no folds, for nnU-Net's fold ``all``.
        out: Folder to use as ``nnUNet_preprocessed``. It gets relative links, or copies on disks
            without links.

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
            link.unlink(missing_ok=True)  # a broken link, after the study was moved
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
        metadata = ["-djfile", str(predictions / "dataset.json"), "-pfile", str(predictions / "plans.json")]
        yield ["nnUNetv2_evaluate_folder", str(tests / "labelsTs"), str(predictions), *metadata]


def _environment(preprocessed: Path, results: Path) -> dict[str, str]:
    folders = {"nnUNet_preprocessed": preprocessed, "nnUNet_results": results}
    return {**os.environ, **{name: str(folder.resolve()) for name, folder in folders.items()}}
