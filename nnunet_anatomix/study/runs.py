"""The runs of a study: where each starts, what it trains on, and the stock commands that make it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.finetuning.splits import SPLITS_FILE, Fold
from nnunet_anatomix.stock_commands import run_command
from pretraining.atomic import write_text
from pretraining.errors import InputError

log = logging.getLogger(__name__)

CONFIGURATION = "3d_fullres"
OUR_PLANS, STOCK_PLANS = "nnUNetAnatomixPlans", "nnUNetPlans"


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
    """Of our plans, voxels, slices first; None leaves it as planned. Stock nnU-Net's plan keeps its own."""
    spacing_mm: tuple[float, float, float] | None = None
    """Grid of our plans, slices first; None leaves it as planned. Stock nnU-Net's plan keeps its own."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.max_patch or 1, self.batch or 1, *(self.patch or (1,))) < 1:
            raise ValueError(f"need at least 1 iteration, patches of at least 1 voxel and at least 1 of them, got {self}")
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError(f"need spacings above 0 mm, got {self.spacing_mm}")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a network starts from.

    Attributes
    ----------
    name : in tables and folders.
    trainer : nnU-Net's ``-tr``.
    plans : nnU-Net's ``-p``.
    weights : file or ``hf://`` address; empty for the plan's own.
    """

    name: str
    trainer: str = "AnatomixTrainer"
    plans: str = OUR_PLANS
    weights: str = ""


BY_NAME = {
    "weights": Start(name="weights"),
    "scratch": Start(name="scratch", trainer="AnatomixTrainerScratch"),
    "stock": Start(name="stock", trainer="AnatomixTrainerStock", plans=STOCK_PLANS),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    start: Start
    shots: int
    """Cases to train on."""
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.start.name}_shots{self.shots}_seed{self.seed}"


def starts_of(asked: Sequence[str]) -> dict[str, Start]:
    """Name → start, for names of :data:`BY_NAME` and weights files, which are called by their file's name.

    Raises
    ------
    InputError
        For a file that is not there, or two of one name.
    """
    starts: dict[str, Start] = {}
    for text in dict.fromkeys(asked):
        start = BY_NAME.get(text) or Start(name=start_name(text), weights=text)
        if text.endswith(".json"):
            raise InputError(f"{text} makes features only; a study starts from weights of our backbone, .safetensors or published .pth")
        if start.weights and not text.startswith("hf://"):
            if not Path(text).is_file():
                raise InputError(f"expected a start among {sorted(BY_NAME)}, or a file of weights; found '{text}'")
            start = Start(name=start.name, weights=str(Path(text).resolve()))
        if start.name in starts or (start.weights and start.name in BY_NAME):
            raise InputError(f"two starts would be called '{start.name}'; rename the file, its name stands in the tables")
        starts[start.name] = start
    return starts


def start_name(text: str) -> str:
    """What a start is called in tables and folders: its own name, or that of its file."""
    return text if text in BY_NAME else re.sub(r"[^\w.-]", "_", Path(text).stem)


def training_pool(folder: Path, cases: Sequence[str]) -> list[str]:
    """Cases that a study may train on: all, or, where the raw dataset brings folds of its own, those of the fold that trains on most.

    Parameters
    ----------
    folder : raw dataset, perhaps with a ``splits_final.json`` as ``nnunet-anatomix prepare`` writes it.
    cases : all training cases.

    Raises
    ------
    InputError
        If that file is damaged or names other cases.
    """
    path = folder / SPLITS_FILE
    if not path.is_file():
        return sorted(cases)
    try:
        pool = max((fold["train"] for fold in json.loads(path.read_text(encoding="utf-8"))), key=len)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no folds of nnU-Net's ({error!r}); prepare the dataset again, or remove the file") from None
    if not pool or set(pool) - set(cases):
        raise InputError(
            f"{path} trains on cases that imagesTr does not have: {sorted(set(pool) - set(cases))[:3]}; prepare the dataset again"
        )
    return sorted(pool)


def drawn_fold(cases: Sequence[str], shots: int, seed: int, *, validate_on_others: bool) -> Fold | None:
    """The cases that a seed trains on; for one seed, more shots contain fewer.

    Parameters
    ----------
    cases : all training cases.
    validate_on_others : else on themselves, which costs nnU-Net the least time.

    Returns
    -------
    A fold of ``splits_final.json``; None for all cases, nnU-Net's fold ``all``.
    """
    if shots == len(cases):
        return None
    order = [cases[index] for index in np.random.default_rng(seed).permutation(len(cases))]
    train, others = sorted(order[:shots]), sorted(order[shots:])
    return {"train": train, "val": others if validate_on_others else train}


def cut_plan(
    plan: Mapping[str, Any], max_patch: int | None, batch: int | None, patch: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """A plan with another batch, and another patch or its own cut to ``max_patch`` voxels a side, in steps that its poolings can halve.

    Raises
    ------
    InputError
        If the network pools more often than such a patch allows.
    """
    plan = json.loads(json.dumps(plan))
    configuration = plan["configurations"][CONFIGURATION]
    steps = np.prod(configuration["architecture"]["arch_kwargs"]["strides"], axis=0).astype(int)
    if patch is not None:
        if np.mod(patch, steps).any():
            raise InputError(f"{plan['plans_name']} pools {steps.tolist()} voxels into one: expected a patch of multiples, found {patch}")
        configuration["patch_size"] = list(patch)
    if max_patch is not None:
        if steps.max() > max_patch:
            raise InputError(f"{plan['plans_name']} pools {steps.tolist()} voxels into one: expected patches of at least {steps.max()}")
        configuration["patch_size"] = np.minimum(configuration["patch_size"], max_patch // steps * steps).tolist()
    configuration["batch_size"] = batch or configuration["batch_size"]
    return plan


def prepare(out: Path, settings: StudySettings, starts: Collection[Start]) -> None:
    """Plan and preprocess below ``out``, once for every plan that a start needs, and cut the patches."""
    preprocessed = out / "nnUNet_preprocessed" / settings.dataset
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
            run_command(planning[plans], _environment(out, out), out / "log.txt")
            patch = settings.patch if plans == OUR_PLANS else None
            plan = cut_plan(json.loads(path.read_text(encoding="utf-8")), settings.max_patch, settings.batch, patch)
            write_text(path, json.dumps(plan, indent=2))
            prepared.touch()


def carry_out(run: Run, settings: StudySettings, fold: Fold | None, out: Path, tests: Path | None, device: str) -> Path:
    """Train one network, from where it was if it was killed, and test it.

    Parameters
    ----------
    fold : from :func:`drawn_fold`.
    out : folder of the study.
    tests : raw dataset with ``imagesTs`` and ``labelsTs``; without it, nnU-Net's validation after training is the test.

    Returns
    -------
    nnU-Net's ``summary.json`` of the test.
    """
    folder = out / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(out, folder) | {
        "ANATOMIX_ITERATIONS": str(settings.iterations),
        "ANATOMIX_SEED": str(run.seed),
        "ANATOMIX_WEIGHTS": run.start.weights,
    }
    if fold is not None:
        write_text(out / "nnUNet_preprocessed" / settings.dataset / SPLITS_FILE, json.dumps([fold], indent=2))
    for command in _commands(run, settings, "all" if fold is None else "0", folder.resolve(), tests, device):
        run_command(command, environment, folder / "log.txt")
    if tests is not None:
        return folder / "predictions" / "summary.json"
    return folder / settings.dataset / f"{run.start.trainer}__{run.start.plans}__{CONFIGURATION}" / "fold_0" / "validation" / "summary.json"


def _commands(run: Run, settings: StudySettings, fold: str, folder: Path, tests: Path | None, device: str) -> Iterator[list[str]]:
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


def _environment(out: Path, results: Path) -> dict[str, str]:
    folders = {"nnUNet_preprocessed": out / "nnUNet_preprocessed", "nnUNet_results": results}
    return {**os.environ, **{name: str(folder.resolve()) for name, folder in folders.items()}}
