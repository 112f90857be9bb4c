"""Stock nnU-Net trainer with a limited number of iterations, for comparisons at equal length."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.nnunet_guard import exit_on_bad_input
from nnunet_anatomix.finetuning.recipe import Recipe, integer_variable

MIN_EPOCHS = 10
"""Minimum number of epochs: nnU-Net lowers its rate only once per epoch."""


class AnatomixTrainerStock(nnUNetTrainer):
    """Stock trainer that runs ``ANATOMIX_ITERATIONS`` optimizer steps with seed ``ANATOMIX_SEED``.

    Network, loss, augmentation, SGD, its polynomial decay and deep supervision are stock. Epochs
    have 250 iterations, or fewer in trainings shorter than ten such epochs.
    """

    num_epochs: int
    num_iterations_per_epoch: int

    @exit_on_bad_input
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        self.seed = integer_variable("ANATOMIX_SEED", os.environ, least=0)
        iterations = integer_variable("ANATOMIX_ITERATIONS", os.environ, least=1)
        super().__init__(plans, configuration, fold, dataset_json, device)
        iterations = iterations or self.num_epochs * self.num_iterations_per_epoch
        per_epoch = min(self.num_iterations_per_epoch, math.ceil(iterations / MIN_EPOCHS))
        self.length = Recipe(iterations=iterations, iterations_per_epoch=per_epoch)
        self.num_epochs = self.length.epochs
        self.num_iterations_per_epoch = per_epoch
        self.num_val_iterations_per_epoch = max(1, per_epoch // 5)

    def initialize(self) -> None:
        if self.seed is not None:
            # nnU-Net uses the global random states.
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)  # noqa: NPY002
        super().initialize()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.num_iterations_per_epoch = self.length.iterations_in(self.current_epoch)
