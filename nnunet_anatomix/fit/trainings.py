"""Trainings of a fit: the folds of a round, and the final model, each resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.fit.folder import LOG, TRAINER, FitFolder, FitSettings, FoldName
from nnunet_anatomix.fit.page import PageState
from nnunet_anatomix.fit.rounds import Round
from nnunet_anatomix.fit.training_log import read_training_log
from nnunet_anatomix.scores.statistics import read_case_dice
from nnunet_anatomix.study.runs import CONFIGURATION
from pretraining.common.batch import run_batch
from pretraining.common.child import run_child

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Trainings in the folder of a fit.

    Attributes:
        folder: Folder of the fit.
        dataset: Labelled scans.
        settings: Settings of all trainings.
        device: Value of nnU-Net's ``-device``.
        state: Live page.
    """

    folder: FitFolder
    dataset: RawDataset
    settings: FitSettings
    device: str
    state: PageState

    def variant(self, is_enlarged: bool) -> Trainings:
        """Return the trainings with, or without, unlabelled scans."""
        return replace(self, folder=self.folder.variant(is_enlarged))

    def checkpoint(self, iterations: int, fold: FoldName) -> Path:
        """Return the final checkpoint of a training, which may not exist yet."""
        return self.folder.training(iterations, fold) / "checkpoint_final.pth"

    def has_networks(self, one: Round) -> bool:
        """Return whether the networks of a round still exist."""
        return all(self.checkpoint(one.iterations, fold).is_file() for fold in range(one.folds))

    def read_round(self, iterations: int) -> Round | None:
        """Return a round; None if it has not finished."""
        folds = len(self.folder.folds())
        known = [score for fold in range(folds) if (score := self.folder.read_score(iterations, fold)) is not None]
        if len(known) < folds:
            return None
        return Round(
            iterations=iterations,
            folds=folds,
            seconds=sum(seconds for seconds, _ in known),
            dice=tuple(one for _, dice in known for one in dice),
            is_enlarged=self.folder.is_enlarged,
        )

    def train_folds(self, iterations: int) -> None:
        """Train and validate the folds of a round."""
        folds = len(self.folder.folds())
        extra = " and unlabelled scans" if self.folder.is_enlarged else ""

        def is_done(fold: int) -> bool:
            return self.folder.read_score(iterations, fold) is not None and self.checkpoint(iterations, fold).is_file()

        def work(fold: int) -> None:
            self._show(
                f"cross-validation with {iterations:,} steps{extra}: training fold {fold + 1} of {folds}",
                iterations,
                tuple(range(fold + 1)),
            )
            seconds = self._train(iterations, fold)
            summary = self.folder.training(iterations, fold) / "validation" / "summary.json"
            self.folder.write_score(iterations, fold, seconds, read_case_dice(summary, self.dataset.description))

        finish({f"{iterations} steps{extra}, fold {fold}": fold for fold in range(folds)}, work, is_done)

    def train_on_all(self, best: Round) -> None:
        """Train the final model, for as many steps as the best round."""

        def work(_: str) -> None:
            self._show(
                f"final model: training on all labelled scans for {best.iterations:,} steps",
                best.iterations,
                (*range(best.folds), "all"),
            )
            self._train(best.iterations, "all")

        finished = self.checkpoint(best.iterations, "all")
        finish({f"{best.iterations} steps, all scans": ""}, work, lambda _: finished.is_file())

    def _show(self, text: str, iterations: int, folds: tuple[FoldName, ...]) -> None:
        self.state.state = text
        self.state.folder, self.state.current = self.folder, (iterations, folds)

    def _train(self, iterations: int, fold: FoldName) -> float:
        """Train one network, from its last checkpoint; return the seconds of all its starts."""
        begin = time.monotonic()
        model = ["-tr", TRAINER, "-p", self.folder.plans, "-device", self.device]
        run_child(
            ["nnUNetv2_train", self.folder.dataset, CONFIGURATION, str(fold), *model, "--c"],
            self.folder.environment(iterations, fold, self.settings.seed),
            self.folder.path / LOG,
        )
        # An interrupted training has begun before this call.
        logged = sum(read_training_log(self.folder.training(iterations, fold)).seconds.values())
        return max(time.monotonic() - begin, logged)


def finish(items: Mapping[str, Item], work: Callable[[Item], None], is_done: Callable[[Item], bool]) -> None:
    """Process items that are not done, and raise an error if one failed."""
    run_batch(items, work, noun="step", is_done=is_done).require_all("steps")
