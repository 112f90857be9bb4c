"""Stock nnU-Net trainer with a limited number of iterations, for comparisons at equal length."""

from __future__ import annotations

import os

import torch

from nnunet_anatomix.finetuning.base_trainer import BaseTrainer
from nnunet_anatomix.finetuning.nnunet_guard import exit_on_bad_input
from nnunet_anatomix.finetuning.recipe import MIN_EPOCHS, Recipe, integer_variable


class AnatomixTrainerStock(BaseTrainer):
    """Stock trainer that runs ``ANATOMIX_ITERATIONS`` optimizer steps with seed ``ANATOMIX_SEED``.

    Network, loss, augmentation, SGD, its polynomial decay and deep supervision are stock. Epochs
    have 250 iterations, or fewer in trainings shorter than ten such epochs: nnU-Net lowers its rate
    only once per epoch.
    """

    @exit_on_bad_input
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        iterations = integer_variable("ANATOMIX_ITERATIONS", os.environ, least=1)
        super().__init__(plans, configuration, fold, dataset_json, device)
        per_epoch = self.num_iterations_per_epoch
        self.set_length(Recipe(iterations=iterations or self.num_epochs * per_epoch, iterations_per_epoch=per_epoch))
        self.save_every = max(1, min(self.save_every, self.num_epochs // MIN_EPOCHS))
