"""Probabilities and ranges of the fine-tuning augmentation (Table 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pretraining.common.checks import check_choice, check_not_negative, check_probability, check_range

Modality = Literal["ct", "mr"]
Policy = Literal["nnunet", "table9"]


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Augmentation of patches: nnU-Net's own, or Table 9 with these probabilities and ranges.

    Ranges are in MONAI's convention; all draws are uniform.

    Notes:
        Table 9 gives gamma from 0, which removes all contrast; the published code starts at 0.5.
        Its CT translation of ±32 voxels is for crops of 96 voxels; here it is a share of the patch.
    """

    policy: Policy = "nnunet"
    """``nnunet``: the milder augmentation of nnU-Net. ``table9``: that of the paper, set below."""
    probability: float = 0.33
    """Probability of each intensity artefact, per channel."""
    noise_max_std: float = 0.1
    """Upper bound of the Gaussian noise's std, share of the intensity range."""
    bias_coefficients: tuple[float, float] = (0.0, 0.075)
    """Coefficients of the bias field's third-degree polynomial in log intensity; not on CT."""
    gibbs_alpha: tuple[float, float] = (0.0, 0.33)
    """Share of the k-space radius that is cut off; not on CT."""
    gamma: tuple[float, float] = (0.5, 4.5)
    """Exponent of the intensity."""
    smoothing_sigma_vox: tuple[float, float] = (0.0, 0.1)
    """Standard deviation of the Gaussian smoothing per axis, voxels."""
    sharpening_alpha: tuple[float, float] = (1.0, 30.0)
    """Weight of the difference of two Gaussians."""
    sharpening_sigma1_vox: tuple[float, float] = (0.0, 3.0)
    """Standard deviation of the first Gaussian per axis, voxels."""
    sharpening_sigma2_vox: tuple[float, float] = (0.0, 1.0)
    """Standard deviation of the second Gaussian per axis, voxels."""
    rotation_deg: float = 45.0
    """Maximum rotation about each axis, in either direction, degrees."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Scale factor along each axis."""
    shear: float = 0.2
    """Maximum shear of each pair of axes, in either direction."""
    ct_translation: float = 1 / 3
    """Maximum translation along each axis if any channel is CT, share of the patch's side."""
    ct_foreground_share: float = 0.5
    """Share of patches centred on foreground if any channel is CT."""
    mr_foreground_share: float = 0.33
    """Share of patches centred on foreground without CT; nnU-Net's value, 0 in Table 9."""

    def __post_init__(self) -> None:
        check_choice(("nnunet", "table9"), policy=self.policy)
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
        """Return the share of patches centred on foreground."""
        return self.ct_foreground_share if "ct" in modalities else self.mr_foreground_share
