"""Trainer that also draws unlabelled scans, where the plan names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import nn

from nnunet_anatomix.finetuning.base_trainer import BaseTrainer
from nnunet_anatomix.finetuning.nnunet_guard import exit_on_bad_input
from nnunet_anatomix.finetuning.recipe import Recipe
from nnunet_anatomix.finetuning.unlabelled.confidence_channel import WithConfidence
from nnunet_anatomix.finetuning.unlabelled.dataset import EnlargedDataset
from nnunet_anatomix.finetuning.unlabelled.folder import require_same_preprocessing, set_for_fold, set_name
from nnunet_anatomix.finetuning.unlabelled.loss import ConfidenceLoss


class EnlargedTrainer(BaseTrainer):
    """Trainer that trains on unlabelled scans as well, and validates on labelled ones alone."""

    recipe: Recipe

    @exit_on_bad_input
    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return labelled and unlabelled scans for training, labelled ones for validation."""
        train, validation = super().get_tr_and_val_datasets()
        if self.recipe.unlabelled is None:
            return train, validation
        folder = Path(self.preprocessed_dataset_folder_base) / self.recipe.unlabelled
        configuration = self.configuration_manager.configuration
        require_same_preprocessing(folder, configuration, self.configuration_name)
        chosen = set_for_fold(folder, self.fold, train.identifiers)
        self.print_to_log_file(f"training also on {len(chosen.weights)} unlabelled scans of {folder}")
        return EnlargedDataset(train, folder / set_name(self.fold), chosen.weights), validation

    def carry_confidence(self, transform: BasicTransform) -> BasicTransform:
        """Return a transform that also moves the confidence of the labels, if there is one."""
        return transform if self.recipe.unlabelled is None else WithConfidence(transform)

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        return loss if self.recipe.unlabelled is None else ConfidenceLoss(loss)
