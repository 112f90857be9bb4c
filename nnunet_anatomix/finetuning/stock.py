"""Stock nnU-Net, shortened so that it can be compared with ours at equal iterations."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_anatomix.finetuning.nnunet_guard import stops_on_bad_input
from nnunet_anatomix.finetuning.recipe import Recipe, whole_number

EPOCHS_AT_LEAST = 10
"""nnU-Net lowers its rate once an epoch: a training of one epoch would never lower it."""


class AnatomixTrainerStock(nnUNetTrainer):
    """nnU-Net as it comes, for ``ANATOMIX_ITERATIONS`` optimizer steps and from ``ANATOMIX_SEED``.

    Network, loss, augmentation, SGD, its polynomial decay and deep supervision are stock. Epochs
    have 250 iterations, or fewer where ten of them would not fit.
    """

    num_epochs: int
    num_iterations_per_epoch: int

    @stops_on_bad_input
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        self.seed = whole_number("ANATOMIX_SEED", os.environ, least=0)
        iterations = whole_number("ANATOMIX_ITERATIONS", os.environ, least=1)
        super().__init__(plans, configuration, fold, dataset_json, device)
        iterations = iterations or self.num_epochs * self.num_iterations_per_epoch
        an_epoch = min(self.num_iterations_per_epoch, math.ceil(iterations / EPOCHS_AT_LEAST))
        self.length = Recipe(iterations=iterations, iterations_per_epoch=an_epoch)
        self.num_epochs = self.length.epochs
        self.num_iterations_per_epoch = an_epoch
        self.num_val_iterations_per_epoch = max(1, an_epoch // 5)

    def initialize(self) -> None:
        if self.seed is not None:
            # nnU-Net draws from the global states.
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)  # noqa: NPY002
        super().initialize()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.num_iterations_per_epoch = self.length.iterations_in(self.current_epoch)
