"""Composition of the augmentation of fine-tuning patches (Table 9)."""

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


def channel_modalities(normalization_schemes: Sequence[str]) -> tuple[Modality, ...]:
    """Return ``ct`` for every channel that the plan normalizes as CT, else ``mr``."""
    return tuple("ct" if scheme == "CTNormalization" else "mr" for scheme in normalization_schemes)


def initial_patch_size(patch_size: Sequence[int]) -> list[int]:
    """Return the size to crop from the scan for a warped patch, voxels.

    It suffices for a rotation by 45° about one axis. Corners that reach further are filled with 0,
    as nnU-Net fills outside of the scan.

    Args:
        patch_size: Size of the warped patch, voxels.
    """
    return [int(np.ceil(np.sqrt(2) * side)) for side in patch_size]


def finetuning_augmentation(
    config: AugmentationConfig,
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    modalities: Sequence[Modality],
    last: BasicTransform,
) -> BasicTransform:
    """Compose the augmentation of one patch and its segmentation.

    Args:
        config: Probabilities and ranges.
        patch_size: (X, Y, Z) of the result, cropped from the centre of the input, voxels.
        spacing_mm: (X, Y, Z), mm; rotation and shear act in millimetres, not on the grid.
        modalities: ``ct`` or ``mr``, one per channel. CT channels get no artefacts of MR; if any
            channel is CT, patches are also translated.
        last: nnU-Net's transform of the labels, applied after the augmentation.

    Notes:
        Table 9 warps last, inside the crop. Here the warp comes first and samples the scan around
        the crop, so that fewer corners are empty and the artefacts process fewer voxels. The
        network rescales to [0, 1] afterwards.
    """
    translation = config.ct_translation if "ct" in modalities else 0.0
    warp = AffineWarp(patch_size, spacing_mm, config.rotation_deg, config.scale, config.shear, translation)
    return ComposeTransforms([warp, IntensityArtefacts(config, modalities), last])


def corrupt_previous_stage(labels: int) -> BasicTransform:
    """Return a transform that adds typical errors of predictions to a cascade's one-hot labels.

    Training receives the true labels of the previous stage, prediction only its output. The
    transforms (dilation, erosion, removal of components) and their strengths are nnU-Net's.

    Args:
        labels: Number of one-hot channels; they are the last channels.
    """
    channels = list(range(-labels, 0))
    morphology = ApplyRandomBinaryOperatorTransform(channels, strel_size=(1, 8), p_per_label=0.5)
    removal = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        channels, fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.15, p_per_label=0.5
    )
    return ComposeTransforms(
        [RandomTransform(morphology, apply_probability=0.4), RandomTransform(removal, apply_probability=0.2)]
    )
