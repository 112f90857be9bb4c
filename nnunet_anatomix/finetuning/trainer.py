"""Trainer for ``nnUNetv2_train -tr AnatomixTrainer`` (Sec. 4.2, App. B.5)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Adam, Optimizer

from nnunet_anatomix.finetuning.augmentation.intensity import StandardizeChannels
from nnunet_anatomix.finetuning.augmentation.pipeline import (
    channel_modalities,
    corrupt_previous_stage,
    finetuning_augmentation,
    initial_patch_size,
)
from nnunet_anatomix.finetuning.description import require_labels
from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.nnunet_guard import exit_on_bad_input
from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_template import OTHER_NETWORK
from nnunet_anatomix.finetuning.prediction_input import check_prediction_input
from nnunet_anatomix.finetuning.recipe import BLOCK, Recipe, read_recipe
from nnunet_anatomix.finetuning.schedule import RatePerIteration, parameter_groups
from nnunet_anatomix.finetuning.splits import SPLITS_FILE, STOCK_FOLDS, few_shot_splits, update_splits
from nnunet_anatomix.finetuning.transfer import load_initial_weights, start_from
from nnunet_anatomix.finetuning.unchanged import require_unchanged_cases
from nnunet_anatomix.finetuning.unlabelled.trainer import EnlargedTrainer
from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError

NETWORK = f"{AnatomixNetwork.__module__}.{AnatomixNetwork.__qualname__}"
"""Value of ``network_class_name`` in our plans."""


def backbone_kwargs(configuration: ConfigurationManager) -> dict[str, Any]:
    """Return the plan's backbone as keyword arguments of :class:`AnatomixNetwork`.

    Args:
        configuration: Configuration of the plan.

    Returns:
        Keyword arguments; empty for a plan of another network.

    Raises:
        InputError: If the configuration is not 3D.
    """
    if len(configuration.patch_size) != 3 or min(configuration.patch_size) < 1:
        raise InputError(
            f"AnatomixTrainer is 3D: expected a patch of three axes, found {configuration.patch_size}; train 3d_fullres"
        )
    return configuration.network_arch_init_kwargs if configuration.network_arch_class_name == NETWORK else {}


OWN_STATISTICS = {"norm": "instance", "norm_affine": True}
"""Fields of the backbone on a stock plan: batch normalization with the statistics of each patch."""


class AnatomixTrainer(EnlargedTrainer):
    """Trainer that fine-tunes the pretrained backbone on any 3D plan, including stock plans.

    Settings are read from the plan's ``anatomix`` block
    (:class:`~nnunet_anatomix.finetuning.recipe.Recipe`). ``ANATOMIX_WEIGHTS`` and
    ``ANATOMIX_ITERATIONS`` take precedence. ``ANATOMIX_SEED`` fixes the random initialization of
    the head; with ``nnUNet_n_proc_DA=0`` it also fixes the batches.

    Notes:
        Deep supervision and mirroring are off in training and prediction, as in the paper. The
        loss is nnU-Net's own: soft Dice and cross-entropy, equally weighted. The other settings
        depart from the paper where short trainings gain by it (docs/results.md).
    """

    starts_pretrained = True
    dataset_class: type[nnUNetBaseDataset] | None  # an attribute of nnU-Net's, untyped there

    @exit_on_bad_input
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        # Check all input first: nnU-Net's constructor creates the output folder.
        self.recipe = self.choose_recipe(read_recipe(plans))
        require_labels(plans["dataset_name"], dataset_json)
        if configuration not in plans["configurations"]:
            raise InputError(
                f"{plans['plans_name']} has no configuration '{configuration}'; "
                f"it has {sorted(plans['configurations'])}"
            )
        configured = PlansManager(plans).get_configuration(configuration)
        backbone_kwargs(configured)
        data = Path(nnUNet_preprocessed.get() or "") / plans["dataset_name"] / configured.data_identifier
        require_unchanged_cases(
            plans["dataset_name"],
            plans["plans_name"],
            infer_dataset_class(str(data)).get_identifiers(str(data)) if data.is_dir() and any(data.iterdir()) else (),
            self.recipe.cases,
            is_ours=BLOCK in plans,
        )
        output = Path(
            get_output_folder(plans["dataset_name"], type(self).__name__, plans["plans_name"], configuration, fold)
        )
        if (
            self.starts_pretrained
            and not plans.get("continue_training")
            and not (output / "checkpoint_final.pth").is_file()
        ):
            load_initial_weights(self.recipe)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.recipe.learning_rate
        self.weight_decay = self.recipe.optimizer.weight_decay
        self.modalities = channel_modalities(self.configuration_manager.normalization_schemes)
        self.oversample_foreground_percent = self.recipe.augmentation.foreground_share(self.modalities)
        self.set_length(self.recipe)
        self.enable_deep_supervision = False
        self.save_every = 1
        self._restores = False

    def choose_recipe(self, planned: Recipe) -> Recipe:
        """Return the recipe to train by: that of the plan."""
        return planned

    @classmethod
    @exit_on_bad_input
    def build_network_architecture(  # a class method, static in nnU-Net: the statistics depend on the trainer
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the plan's network with random weights.

        A stock plan gets the paper's architecture.

        Args:
            plans_manager: Plan of nnU-Net; unused.
            configuration_manager: Configuration of the plan.
            num_input_channels: Image channels.
            num_output_channels: Output channels of the segmentation head.
            enable_deep_supervision: Also return logits at the coarser decoder levels.
        """
        check_prediction_input(sys.argv)  # prediction has no other line of code of ours
        if configuration_manager.network_arch_class_name == OTHER_NETWORK:
            kwargs = configuration_manager.network_arch_init_kwargs
            return OtherNetwork(num_input_channels, num_output_channels, enable_deep_supervision, **kwargs)
        backbone = cls.choose_statistics(backbone_kwargs(configuration_manager))
        return AnatomixNetwork(num_input_channels, num_output_channels, enable_deep_supervision, **backbone)

    @classmethod
    def choose_statistics(cls, backbone: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the plan's fields of the backbone; each patch's own statistics on a stock plan."""
        return backbone or OWN_STATISTICS

    @exit_on_bad_input
    def initialize(self) -> None:
        """Initialize as stock, then load the pretrained weights unless a checkpoint is restored."""
        super().initialize()
        if self.starts_pretrained and not self._restores:
            where, weights = load_initial_weights(self.recipe)
            network = getattr(self.network, "module", self.network)
            network = cast(AnatomixNetwork | OtherNetwork, getattr(network, "_orig_mod", network))
            report = start_from(weights, network, image_channels=len(self.modalities))
            self.print_to_log_file(f"pretrained weights: {where}, sha256 {weights.sha256}: {report}")

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        self._restores = True
        super().load_checkpoint(filename_or_checkpoint)

    def configure_optimizers(self) -> tuple[Optimizer, RatePerIteration]:
        recipe, optimizer = self.recipe, self.recipe.optimizer
        groups = parameter_groups(self.network, recipe.schedule, self.initial_lr)
        adam = Adam(groups, betas=optimizer.betas, weight_decay=optimizer.weight_decay)
        return adam, RatePerIteration(adam, recipe.schedule, recipe.iterations, recipe.epoch_length)

    @exit_on_bad_input
    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases of the fold.

        With fewer than five cases, nnU-Net has no folds; leave-one-out folds are then written to
        ``splits_final.json``, where stock trainers find them too.
        """
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        cases = sorted(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        if not cases:
            raise InputError(
                f"no preprocessed case in {self.preprocessed_dataset_folder}; run nnUNetv2_preprocess for this plan"
            )
        splits_folder = Path(self.preprocessed_dataset_folder_base)
        if self.fold != "all" and (note := update_splits(splits_folder, cases)):
            self.print_to_log_file(note)
        splits_file = splits_folder / SPLITS_FILE
        if self.fold != "all" and len(cases) < STOCK_FOLDS and not splits_file.is_file():
            splits = few_shot_splits(cases)
            if self.fold >= len(splits):
                raise InputError(
                    f"fold {self.fold} does not exist: {len(cases)} cases have folds 0 to {len(splits) - 1}, or 'all'"
                )
            write_text(splits_file, json.dumps(splits, indent=4))
            self.print_to_log_file(
                f"{len(cases)} cases are too few for five folds: wrote leave-one-out folds to {splits_file}"
            )
        train, validation = super().do_split()
        if self.fold != "all" and set(train) == set(validation):
            self.print_to_log_file(
                "WARNING: training and validation cases are the same; "
                "the validation Dice does not predict accuracy on new scans"
            )
        return train, validation

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[tuple[float, float], bool, list[int], None]:
        """Return the geometry of nnU-Net's augmentation or of Table 9, without mirroring."""
        limits, in_plane, loaded, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        augmentation = self.recipe.augmentation
        if augmentation.policy == "nnunet":
            return limits, in_plane, loaded, None
        limit = float(np.deg2rad(augmentation.rotation_deg))
        return (-limit, limit), False, initial_patch_size(self.configuration_manager.patch_size), None

    def get_training_transforms(  # an instance method, static in nnU-Net: the plan sets the augmentation
        self, patch_size: Any, rotation_for_DA: Any, deep_supervision_scales: Any, *rest: Any, **label_options: Any
    ) -> BasicTransform:
        """Return the augmentation of the recipe, with nnU-Net's transforms of the labels.

        In a cascade, the labels of the previous stage are also corrupted as in stock training.

        Args:
            patch_size: (X, Y, Z) of the network's patches, voxels.
            rotation_for_DA: Limits of nnU-Net's rotation; Table 9 has its own.
            deep_supervision_scales: Scales of the supervised resolutions, or None.
            rest: Axes to mirror, none, and whether nnU-Net augments in the plane alone.
            label_options: Keyword arguments of nnU-Net's transforms.
        """
        label_options.pop("use_mask_for_norm", None)
        if self.recipe.augmentation.policy == "nnunet":
            stock = super().get_training_transforms(
                patch_size, rotation_for_DA, deep_supervision_scales, *rest, **label_options
            )
            return self.carry_confidence(ComposeTransforms([StandardizeChannels(), stock]))
        last = self.get_validation_transforms(deep_supervision_scales, **label_options)
        if self.is_cascaded:
            last = ComposeTransforms([last, corrupt_previous_stage(len(self.label_manager.foreground_labels))])
        augmentation = finetuning_augmentation(
            self.recipe.augmentation, patch_size, self.configuration_manager.spacing, self.modalities, last
        )
        return self.carry_confidence(augmentation)


class AnatomixTrainerPaper(AnatomixTrainer):
    """AnatomixTrainer as in the paper, on any plan.

    It has the augmentation of Table 9, batch normalization with running averages, and one rate for
    all layers.
    """

    def choose_recipe(self, planned: Recipe) -> Recipe:
        return planned.as_in_paper()

    @classmethod
    def choose_statistics(cls, backbone: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the plan's fields of the backbone; running averages, where it converts them."""
        return {**backbone, "norm": "batch", "norm_affine": False} if backbone.get("norm_affine") else backbone


class AnatomixTrainerScratch(AnatomixTrainer):
    """AnatomixTrainer without pretrained weights: the control of every comparison."""

    starts_pretrained = False


class AnatomixTrainerPaperScratch(AnatomixTrainerPaper):
    """AnatomixTrainerPaper without pretrained weights: the row Rand Init of the paper."""

    starts_pretrained = False
