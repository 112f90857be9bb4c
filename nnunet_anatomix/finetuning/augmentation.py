"""Augmentation of fine-tuning patches (Table 9): what it is called, drawn from and composed of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import RemoveRandomConnectedComponentFromOneHotEncodingTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_anatomix.finetuning.affine_warp import AffineWarp
from nnunet_anatomix.finetuning.intensity import IntensityArtefacts
from pretraining.common.checks import check_not_negative, check_probability, check_range

Modality = Literal["ct", "mr"]


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Ranges of Table 9, with MONAI's meaning of the parameters; bounds are of uniform draws.

    Notes
    -----
    Table 9 prints gamma from 0, which flattens the image; the published code starts at 0.5. Its CT translation of ±32
    voxels belongs to crops of 96, and is kept as that share of the patch.
    """

    probability: float = 0.33
    """Of each intensity artefact, for each channel."""
    noise_max_std: float = 0.1
    """Upper bound of the Gaussian noise's std, share of the intensity range."""
    bias_coefficients: tuple[float, float] = (0.0, 0.075)
    """Of the bias field's third-degree polynomial in log intensity; not on CT."""
    gibbs_alpha: tuple[float, float] = (0.0, 0.33)
    """Share of k-space's radius cut off; not on CT."""
    gamma: tuple[float, float] = (0.5, 4.5)
    """Exponent of the intensity."""
    smoothing_sigma_vox: tuple[float, float] = (0.0, 0.1)
    """Gaussian smoothing, an axis."""
    sharpening_alpha: tuple[float, float] = (1.0, 30.0)
    """Weight of the difference of two Gaussians."""
    sharpening_sigma1_vox: tuple[float, float] = (0.0, 3.0)
    """First Gaussian, an axis."""
    sharpening_sigma2_vox: tuple[float, float] = (0.0, 1.0)
    """Second Gaussian, an axis."""
    rotation_deg: float = 45.0
    """Greatest rotation about each axis, either way."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Along each axis."""
    shear: float = 0.2
    """Greatest shear of each pair of axes, either way."""
    ct_translation: float = 1 / 3
    """Greatest translation along each axis if any channel is CT, share of the patch's side."""
    ct_foreground_share: float = 0.5
    """Share of patches centred on foreground if any channel is CT."""
    mr_foreground_share: float = 0.33
    """The same without CT; nnU-Net's own share, where Table 9 crops anywhere."""

    def __post_init__(self) -> None:
        check_probability(
            probability=self.probability,
            ct_translation=self.ct_translation,
            ct_foreground_share=self.ct_foreground_share,
            mr_foreground_share=self.mr_foreground_share,
        )
        for name in ("bias_coefficients", "smoothing_sigma_vox", "sharpening_alpha", "sharpening_sigma1_vox", "sharpening_sigma2_vox"):
            check_range("[0, inf)", **{name: getattr(self, name)})
        check_range("[0, 1)", gibbs_alpha=self.gibbs_alpha)
        check_range("(0, inf)", gamma=self.gamma, scale=self.scale)
        check_not_negative(noise_max_std=self.noise_max_std, rotation_deg=self.rotation_deg, shear=self.shear)

    def foreground_share(self, modalities: Sequence[Modality]) -> float:
        """Share of patches centred on foreground."""
        return self.ct_foreground_share if "ct" in modalities else self.mr_foreground_share


def modalities_of(normalization_schemes: Sequence[str]) -> tuple[Modality, ...]:
    """``ct`` for every channel that the plan normalizes as CT, else ``mr``."""
    return tuple("ct" if scheme == "CTNormalization" else "mr" for scheme in normalization_schemes)


def initial_patch_size(patch_size: Sequence[int]) -> list[int]:
    """Voxels to cut out of the scan for a warped patch of ``patch_size``: enough to turn it by 45° about one axis.

    The rarer corners beyond are filled with 0, as nnU-Net fills beyond the scan.
    """
    return [int(np.ceil(np.sqrt(2) * side)) for side in patch_size]


def table9(
    config: AugmentationConfig, patch_size: Sequence[int], spacing_mm: Sequence[float], modalities: Sequence[Modality], last: BasicTransform
) -> BasicTransform:
    """The augmentation of one patch and its segmentation.

    Parameters
    ----------
    config : the ranges.
    patch_size : (X, Y, Z) to cut from the middle of what comes in, voxels.
    spacing_mm : (X, Y, Z); rotation and shear act in space, not on the grid.
    modalities : one a channel; CT keeps off the artefacts of MR, and one CT channel sets the geometry.
    last : what nnU-Net does to labels after every augmentation.

    Notes
    -----
    Table 9 warps last, inside the crop. Here the warp comes first and draws on the scan around the crop, so that fewer
    corners are empty and the artefacts work on fewer voxels. The network rescales to [0, 1] afterwards.
    """
    translation = config.ct_translation if "ct" in modalities else 0.0
    warp = AffineWarp(patch_size, spacing_mm, config.rotation_deg, config.scale, config.shear, translation)
    return ComposeTransforms([warp, IntensityArtefacts(config, modalities), last])


def imperfect_earlier_stage(labels: int) -> BasicTransform:
    """Make a cascade's one-hot labels, the last channels, as faulty as predictions: grown, shrunk, pieces gone.

    nnU-Net's own transforms at its own strengths; training sees the true labels, prediction what the first stage found.

    Parameters
    ----------
    labels : one-hot channels.
    """
    channels = list(range(-labels, 0))
    ragged = ApplyRandomBinaryOperatorTransform(channels, strel_size=(1, 8), p_per_label=0.5)
    pieces_gone = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        channels, fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=0.15, p_per_label=0.5
    )
    return ComposeTransforms([RandomTransform(ragged, apply_probability=0.4), RandomTransform(pieces_gone, apply_probability=0.2)])
