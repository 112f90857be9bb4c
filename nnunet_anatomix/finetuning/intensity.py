"""Intensity artefacts of Table 9: drawn by :func:`sample_artefacts`, applied with MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from torch import Tensor

from nnunet_anatomix.finetuning.network import rescaled

if TYPE_CHECKING:
    from nnunet_anatomix.finetuning.augmentation import AugmentationConfig


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """What happens to one channel, in this order; None does not."""

    noise: tuple[float, int] | None
    """Std, share of the intensity range, and seed."""
    bias_seed: int | None
    """Of the bias field's coefficients."""
    gibbs_alpha: float | None
    gamma: float | None
    smoothing_sigma_vox: tuple[float, ...] | None
    """(X, Y, Z)."""
    sharpening: tuple[float, tuple[float, ...], tuple[float, ...]] | None
    """Alpha, first and second sigma (X, Y, Z), voxels."""


def sample_artefacts(config: AugmentationConfig, modality: str, *, rng: np.random.Generator) -> Artefacts:
    """Draw the artefacts of one channel; ``ct`` has neither bias field nor Gibbs ringing."""

    def happens() -> bool:
        return bool(rng.random() < config.probability)

    def axes(bounds: tuple[float, float]) -> tuple[float, ...]:
        return tuple(rng.uniform(*bounds, 3).tolist())

    is_mr = modality != "ct"
    return Artefacts(
        noise=(float(rng.uniform(0, config.noise_max_std)), int(rng.integers(2**31))) if happens() else None,
        bias_seed=int(rng.integers(2**31)) if is_mr and happens() else None,
        gibbs_alpha=float(rng.uniform(*config.gibbs_alpha)) if is_mr and happens() else None,
        gamma=float(rng.uniform(*config.gamma)) if happens() else None,
        smoothing_sigma_vox=axes(config.smoothing_sigma_vox) if happens() else None,
        sharpening=(float(rng.uniform(*config.sharpening_alpha)), axes(config.sharpening_sigma1_vox), axes(config.sharpening_sigma2_vox))
        if happens()
        else None,
    )


def apply_artefacts(channel: Tensor, artefacts: Artefacts, bias_coefficients: tuple[float, float]) -> Tensor:
    """Apply what was drawn.

    Parameters
    ----------
    channel : (1, X, Y, Z) in [0, 1].
    artefacts : from :func:`sample_artefacts`.
    bias_coefficients : bounds of the bias field's coefficients.

    Returns
    -------
    (1, X, Y, Z), around [0, 1].
    """
    # MONAI takes seconds to import, and prediction, which imports the trainer, never gets here.
    from monai.transforms import AdjustContrast, GibbsNoise, RandBiasField

    if artefacts.noise is not None:
        std, seed = artefacts.noise
        channel = channel + std * torch.randn(channel.shape, generator=torch.Generator().manual_seed(seed))
    if artefacts.bias_seed is not None:
        field = RandBiasField(prob=1.0, coeff_range=bias_coefficients)
        field.set_random_state(artefacts.bias_seed)
        channel = field(channel)
    if artefacts.gibbs_alpha is not None:
        channel = GibbsNoise(artefacts.gibbs_alpha)(channel)
    if artefacts.gamma is not None:
        channel = AdjustContrast(artefacts.gamma)(channel)
    if artefacts.smoothing_sigma_vox is not None:
        channel = smoothed(channel, artefacts.smoothing_sigma_vox)
    if artefacts.sharpening is not None:
        alpha, sigma1_vox, sigma2_vox = artefacts.sharpening
        once = smoothed(channel, sigma1_vox)
        channel = once + alpha * (once - smoothed(once, sigma2_vox))
    # MONAI answers with its own tensor class, which carries metadata and is slow to send between processes.
    return channel.as_subclass(Tensor)


def smoothed(channel: Tensor, sigma_vox: Sequence[float]) -> Tensor:
    """Gaussian smoothing along each axis, 0 beyond the border, as MONAI's ``GaussianSmooth``.

    Parameters
    ----------
    channel : (1, X, Y, Z).
    sigma_vox : (X, Y, Z).

    Notes
    -----
    A patch is short enough for a matrix product along each axis, which is several times faster than MONAI's convolution.
    """
    from monai.networks.layers import gaussian_1d

    volume = channel[0]
    for axis, sigma in enumerate(sigma_vox):
        kernel = gaussian_1d(torch.tensor(sigma))
        position = torch.arange(volume.shape[axis])
        tap = position - position[:, None] + len(kernel) // 2
        inside = (tap >= 0) & (tap < len(kernel))
        matrix = torch.where(inside, kernel[tap.clamp(0, len(kernel) - 1)], 0)
        volume = torch.tensordot(volume, matrix, ([axis], [1])).movedim(-1, axis)
    return volume[None]


class IntensityArtefacts(ImageOnlyTransform):
    """New :func:`sample_artefacts` for every patch and channel.

    Parameters
    ----------
    config : the ranges.
    modalities : ``ct`` or ``mr``, one a channel.
    """

    def __init__(self, config: AugmentationConfig, modalities: Sequence[str]) -> None:
        super().__init__()
        # nnU-Net forks its workers after this: imported here, MONAI is paid for once.
        import monai.transforms  # noqa: F401

        self.config, self.modalities = config, tuple(modalities)

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        # nnU-Net seeds NumPy's global state in each of its workers; torch's is the same in all of them.
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        return {"drawn": [sample_artefacts(self.config, modality, rng=rng) for modality in self.modalities]}

    def _apply_to_image(self, img: Tensor, drawn: Sequence[Artefacts]) -> Tensor:
        # Table 9's strengths are shares of [0, 1]; stock plans bring z-scores.
        channels = rescaled(img[None])[0].split(1)
        return torch.cat(
            [apply_artefacts(channel, artefacts, self.config.bias_coefficients) for channel, artefacts in zip(channels, drawn, strict=True)]
        )
