"""Base of our trainers: length, seed, checkpoints, progress lines and the validation at the end."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunet_anatomix.finetuning.nnunet_guard import StoppedByInput
from nnunet_anatomix.finetuning.recipe import Recipe, integer_variable
from pretraining.common.atomic import NotWritten, atomic_write
from pretraining.common.child import hides_progress_bars

LINE_EVERY_S = 60.0
"""Time between two progress lines of a log, seconds."""


def rank_seed(seed: int, rank: int) -> int:
    """Return the seed of one process of a distributed training.

    Processes with the same seed would draw the same batches.

    Args:
        seed: Seed of the training.
        rank: Number of the process; process 0 uses the seed of the training itself.
    """
    return seed if rank == 0 else int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


class BaseTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a limited length, from which ``--c`` always resumes.

    - A training has at least about ten epochs, and checkpoints are written atomically.
    - ``ANATOMIX_SEED`` sets the global random states, different in each process of a distributed
      training.
    - Progress within an epoch is a bar in a terminal, and a line a minute in the log.
    - Fold ``all`` is validated only by ``nnUNetv2_train --val``, as its validation cases are its
      training cases.
    """

    num_epochs: int
    num_iterations_per_epoch: int
    save_every: int
    fold: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        self.seed = integer_variable("ANATOMIX_SEED", os.environ, least=0)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._length: Recipe | None = None
        self._trains_here = False
        self._bar = tqdm(disable=True)
        self._steps, self._started_s, self._last_line_s = 0, 0.0, 0.0

    def set_length(self, recipe: Recipe) -> None:
        """Set epochs and iterations.

        Args:
            recipe: Settings, of which the number of iterations and the epochs are used.
        """
        self._length = recipe
        self.num_epochs = recipe.epochs
        self.num_iterations_per_epoch = recipe.iterations_in(0)
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 5)

    def initialize(self) -> None:
        if self.seed is not None:
            # nnU-Net uses the global random states.
            seed = rank_seed(self.seed, self.local_rank)
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
        super().initialize()

    def plot_network_architecture(self) -> None:
        """Do nothing: nnU-Net's plot needs a package that no longer works, and it logs an error."""

    def save_checkpoint(self, filename: str) -> None:
        """Save a stock checkpoint atomically.

        A training that stops while writing resumes from the previous checkpoint.

        Args:
            filename: Path of the checkpoint.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        try:
            with atomic_write(filename) as partial:
                super().save_checkpoint(str(partial))
        except NotWritten as error:  # the previous checkpoint still exists
            raise StoppedByInput(f"Error: {error}") from None

    def on_train_start(self) -> None:
        self._trains_here = True
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self._length is not None:
            self.num_iterations_per_epoch = self._length.iterations_in(self.current_epoch)
        # An epoch takes minutes on a CPU, and stock training prints nothing before its end.
        self._bar = tqdm(
            total=self.num_iterations_per_epoch,
            desc=f"epoch {self.current_epoch} of {self.num_epochs}",
            unit="iteration",
            leave=False,
            disable=hides_progress_bars() if self.local_rank == 0 else True,
        )
        self._steps, self._started_s = 0, monotonic()
        self._last_line_s = self._started_s

    def train_step(self, batch: dict) -> dict:
        output = super().train_step(batch)
        self._bar.update()
        self._steps += 1
        now = monotonic()
        if now - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = now
            if self.local_rank == 0:
                self.print_to_log_file(
                    f"epoch {self.current_epoch} of {self.num_epochs}: iteration {self._steps} of "
                    f"{self.num_iterations_per_epoch}, {(now - self._started_s) / self._steps:.2g} s each, "
                    f"loss {float(output['loss']):.4f}",
                    also_print_to_console=self._bar.disable,
                )
        return output

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        self._bar.close()
        super().on_train_epoch_end(train_outputs)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the validation cases as stock, except those of a fold ``all`` just trained.

        The first stage of a cascade predicts them always, as the next stage trains on the results.

        Args:
            save_probabilities: Also write probabilities.
        """
        if self.fold == "all" and self._trains_here and not self.configuration_manager.next_stage_names:
            self.print_to_log_file(
                "fold all has no validation cases of its own, so it is not validated; "
                "nnUNetv2_train --val predicts its training cases"
            )
            return
        super().perform_actual_validation(save_probabilities)
