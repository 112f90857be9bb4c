"""Augmentation of fine-tuning patches (Table 9): what it is called, drawn from and composed of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_anatomix.finetuning.augmentation.affine import AffineWarp
from nnunet_anatomix.finetuning.augmentation.config import AugmentationConfig, Modality
from nnunet_anatomix.finetuning.augmentation.intensity import IntensityArtefacts


def modalities_of(normalization_schemes: Sequence[str]) -> tuple[Modality, ...]:
    """``ct`` for every channel that the plan normalizes as CT, else ``mr``."""
    return tuple("ct" if scheme == "CTNormalization" else "mr" for scheme in normalization_schemes)


def initial_patch_size(patch_size: Sequence[int]) -> list[int]:
    """Voxels to cut out of the scan for a warped patch of ``patch_size``: enough to turn it by 45° about one axis.

    The rarer corners beyond are filled with 0, as nnU-Net fills beyond the scan.
    """
    return [int(np.ceil(np.sqrt(2) * side)) for side in patch_size]


def finetuning_augmentation(
    config: AugmentationConfig,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    modalities: Sequence[Modality],
    last: BasicTransform,
) -> BasicTransform:
    """The augmentation of one patch and its segmentation.

    Args:
        config: The ranges.
        patch_size: (X, Y, Z) to cut from the middle of what comes in, voxels.
        spacing_mm: (X, Y, Z); rotation and shear act in space, not on the grid.
        modalities: One a channel; CT keeps off the artefacts of MR, and one CT channel sets the
            geometry.
        last: What nnU-Net does to labels after every augmentation.

    Notes:
        Table 9 warps last, inside the crop. Here the warp comes first and draws on the scan around
        the crop, so that fewer corners are empty and the artefacts work on fewer voxels. The
        network rescales to [0, 1] afterwards.
    """
    translation = config.ct_translation if "ct" in modalities else 0.0
    warp = AffineWarp(patch_size, spacing_mm, config.rotation_deg, config.scale, config.shear, translation)
    return ComposeTransforms([warp, IntensityArtefacts(config, modalities), last])


def corrupt_previous_stage(labels: int) -> BasicTransform:
    """Make a cascade's one-hot labels, the last channels, as faulty as predictions: grown, shrunk, pieces gone.

    nnU-Net's own transforms at its own strengths; training sees the true labels, prediction what
    the first stage found.

    Args:
        labels: One-hot channels.
    """
    channels = list(range(-labels, 0))
    ragged = ApplyRandomBinaryOperatorTransform(channels, strel_size=(1, 8), p_per_label=0.5)
    pieces_gone = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        channels, fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.15, p_per_label=0.5
    )
    return ComposeTransforms(
        [RandomTransform(ragged, apply_probability=0.4), RandomTransform(pieces_gone, apply_probability=0.2)]
    )
