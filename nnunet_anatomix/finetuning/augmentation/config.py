"""Probabilities and ranges of the fine-tuning augmentation (Table 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pretraining.common.checks import check_not_negative, check_probability, check_range

Modality = Literal["ct", "mr"]


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Ranges of Table 9, with MONAI's meaning of the parameters; bounds are of uniform draws.

    Notes:
        Table 9 prints gamma from 0, which flattens the image; the published code starts at 0.5. Its
        CT translation of ±32 voxels belongs to crops of 96, and is kept as that share of the patch.
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
        for name in (
            "bias_coefficients",
            "smoothing_sigma_vox",
            "sharpening_alpha",
            "sharpening_sigma1_vox",
            "sharpening_sigma2_vox",
        ):
            check_range("[0, inf)", **{name: getattr(self, name)})
        check_range("[0, 1)", gibbs_alpha=self.gibbs_alpha)
        check_range("(0, inf)", gamma=self.gamma, scale=self.scale)
        check_not_negative(noise_max_std=self.noise_max_std, rotation_deg=self.rotation_deg, shear=self.shear)

    def foreground_share(self, modalities: Sequence[Modality]) -> float:
        """Share of patches centred on foreground."""
        return self.ct_foreground_share if "ct" in modalities else self.mr_foreground_share
