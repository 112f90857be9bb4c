"""Folder of a fit: paths, settings, and commands of its trainings.

::

    fit.json, anatomix_cases.json   settings and scans; with others, the fit begins anew
    fit.html, fit.csv, log.txt      live page, Dice of every scan and round, output of all commands
    nnUNet_preprocessed             plan, folds and scans
    rounds/N/fold_K.json            a finished training of N steps: Dice of its left-out scans
    rounds/N/DATASET                its networks
    final/N/DATASET                 the network trained on all scans, for N steps
    enlarged/                       the same with unlabelled scans: rounds, final, and predictions
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_anatomix.finetuning.case_record import (
    CaseRecord,
    case_files,
    describe_change,
    read_record,
    record_cases,
    write_record,
)
from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.finetuning.splits import SPLITS_FILE, Fold
from nnunet_anatomix.finetuning.unlabelled.folder import ENLARGED
from nnunet_anatomix.scores.statistics import CaseDice
from nnunet_anatomix.study.runs import CONFIGURATION, PREPROCESSED
from pretraining.common.atomic import write_text
from pretraining.common.checks import check_count
from pretraining.imaging.dataset_json import DATASET_FILE

PLANS = "nnUNetAnatomixFitPlans"
"""Name of the plan, so that a fit replaces no other training."""
TRAINER = "AnatomixTrainer"
MODEL = f"{TRAINER}__{PLANS}__{CONFIGURATION}"
"""Name of the published model, trained with or without unlabelled scans."""
FoldName = int | Literal["all"]
PAGE, TABLE, LOG = "fit.html", "fit.csv", "log.txt"


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings that all trainings of a fit share; with others, a fit begins anew."""

    max_patch: int | None
    """Maximum side of a patch, voxels; None: as planned."""
    batch: int | None
    """Patches per step; None: as planned."""
    seed: int = 0
    """Seed of the head's random weights and of training."""
    weights: str | None = None
    """Weights to start from, of ``ANATOMIX_WEIGHTS``; None: the plan's."""

    def __post_init__(self) -> None:
        check_count(max_patch=self.max_patch, batch=self.batch)


@dataclass(frozen=True)
class FitFolder:
    """Paths in the folder of a fit."""

    path: Path
    dataset: str
    """Name of the dataset, ``DatasetXXX_NAME``."""
    is_enlarged: bool = False
    """Whether trainings are those with unlabelled scans; plan and folds are shared."""

    def variant(self, is_enlarged: bool) -> FitFolder:
        """Return this folder with the trainings with, or without, unlabelled scans."""
        return replace(self, is_enlarged=is_enlarged)

    @property
    def trainings(self) -> Path:
        """Folder of all trainings."""
        return self.path / "enlarged" if self.is_enlarged else self.path

    @property
    def plans(self) -> str:
        """Name of the plan."""
        return PLANS + ENLARGED if self.is_enlarged else PLANS

    @property
    def preprocessed(self) -> Path:
        """Folder with plan, folds and preprocessed scans."""
        return self.path / PREPROCESSED / self.dataset

    def results(self, iterations: int, fold: FoldName = 0) -> Path:
        """Return nnU-Net's results folder of the trainings of so many steps."""
        return self.trainings / ("final" if fold == "all" else "rounds") / str(iterations)

    def model(self, iterations: int, fold: FoldName = 0) -> Path:
        """Return nnU-Net's folder of the networks of so many steps."""
        return self.results(iterations, fold) / self.dataset / f"{TRAINER}__{self.plans}__{CONFIGURATION}"

    def training(self, iterations: int, fold: FoldName) -> Path:
        """Return nnU-Net's folder of one training."""
        return self.model(iterations, fold) / f"fold_{fold}"

    def score_file(self, iterations: int, fold: int) -> Path:
        """Return the file that marks a finished training of a round."""
        return self.results(iterations) / f"fold_{fold}.json"

    def write_score(self, iterations: int, fold: int, seconds: float, dice: list[CaseDice]) -> None:
        """Mark a training of a round as finished."""
        content = {"seconds": round(seconds, 1), "dice": [asdict(one) for one in dice]}
        write_text(self.score_file(iterations, fold), json.dumps(content, indent=1) + "\n")

    def read_score(self, iterations: int, fold: int) -> tuple[float, list[CaseDice]] | None:
        """Read what :meth:`write_score` wrote; None if the training has not finished."""
        try:
            content = json.loads(self.score_file(iterations, fold).read_text(encoding="utf-8"))
            return float(content["seconds"]), [CaseDice(**one) for one in content["dice"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def lengths(self) -> list[int]:
        """Return the steps of all rounds that have begun, ascending."""
        return sorted(int(path.name) for path in (self.trainings / "rounds").glob("*") if path.name.isdigit())

    def folds(self) -> list[Fold]:
        """Read the folds."""
        return json.loads((self.preprocessed / SPLITS_FILE).read_text(encoding="utf-8"))

    def environment(self, iterations: int, fold: FoldName, seed: int) -> dict[str, str]:
        """Return the environment of a training."""
        results = self.results(iterations, fold)
        results.mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            "nnUNet_preprocessed": str((self.path / PREPROCESSED).resolve()),
            "nnUNet_results": str(results.resolve()),
            "ANATOMIX_ITERATIONS": str(iterations),
            "ANATOMIX_SEED": str(seed),
        }

    def change_since(self, dataset: RawDataset, settings: FitSettings) -> tuple[str, CaseRecord]:
        """Describe what differs from the fit that this folder holds.

        Args:
            dataset: Dataset as it is now.
            settings: Settings as asked for now.

        Returns:
            What differs, empty for the same fit or a new folder; and the record of the scans and
            of ``dataset.json``.
        """
        before = read_record(self.path)
        files = {**case_files(dataset.cases), DATASET_FILE: [dataset.folder / DATASET_FILE]}
        record = record_cases(files, before)
        changes = [describe_change(before, record)] if before else []
        earlier = self._read_settings()
        changes += [
            f"{name}: {earlier.get(name)}, now {value}"
            for name, value in asdict(settings).items()
            if earlier and earlier.get(name) != value
        ]
        return "; ".join(filter(None, changes)), record

    def claim(self, record: CaseRecord, settings: FitSettings) -> None:
        """Write settings and scans."""
        write_record(self.path, record)
        write_text(self.path / "fit.json", json.dumps(asdict(settings), indent=1) + "\n")

    def _read_settings(self) -> Mapping[str, object]:
        try:
            settings = json.loads((self.path / "fit.json").read_text(encoding="utf-8"))
            return settings if isinstance(settings, dict) else {}
        except (OSError, ValueError):
            return {}
