"""Intensity artefacts of Table 9: drawn by :func:`sample_artefacts`, applied by the synthesis engine, in its meaning and MONAI's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from torch import Tensor

from nnunet_anatomix.finetuning.network import rescale_channels
from pretraining.engine.artefacts.bias_field import BiasField, apply_bias_field, term_degrees
from pretraining.engine.artefacts.gamma import Gamma, apply_gamma
from pretraining.engine.artefacts.gibbs import Gibbs, apply_gibbs
from pretraining.engine.artefacts.noise import Noise, apply_noise
from pretraining.engine.artefacts.sharpening import Sharpening, apply_sharpening
from pretraining.engine.artefacts.smoothing import Smoothing, apply_smoothing

if TYPE_CHECKING:
    from nnunet_anatomix.finetuning.augmentation.config import AugmentationConfig

BIAS_FIELD_DEGREE = 3
"""Of the polynomial, MONAI's value."""


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """What happens to one channel, in this order; None does not."""

    noise: Noise | None = None
    bias_field: BiasField | None = None
    gibbs: Gibbs | None = None
    gamma: Gamma | None = None
    smoothing: Smoothing | None = None
    sharpening: Sharpening | None = None


def sample_artefacts(config: AugmentationConfig, modality: str, *, rng: np.random.Generator) -> Artefacts:
    """Draw the artefacts of one channel; ``ct`` has neither bias field nor Gibbs ringing."""

    def happens() -> bool:
        return bool(rng.random() < config.probability)

    def one(bounds: tuple[float, float]) -> float:
        return float(rng.uniform(*bounds))

    def axes(bounds: tuple[float, float]) -> tuple[float, float, float]:
        return one(bounds), one(bounds), one(bounds)

    def bias_field() -> BiasField:
        terms = len(term_degrees(BIAS_FIELD_DEGREE))
        return BiasField(
            degree=BIAS_FIELD_DEGREE, coefficients=tuple(one(config.bias_coefficients) for _ in range(terms))
        )

    def sharpening() -> Sharpening:
        return Sharpening(
            strength=one(config.sharpening_alpha),
            sigma1_vox=axes(config.sharpening_sigma1_vox),
            sigma2_vox=axes(config.sharpening_sigma2_vox),
        )

    is_mr = modality != "ct"
    return Artefacts(
        noise=Noise(std=one((0.0, config.noise_max_std)), noise_seed=int(rng.integers(2**31))) if happens() else None,
        bias_field=bias_field() if is_mr and happens() else None,
        gibbs=Gibbs(alpha=one(config.gibbs_alpha)) if is_mr and happens() else None,
        gamma=Gamma(exponent=one(config.gamma)) if happens() else None,
        smoothing=Smoothing(sigma_vox=axes(config.smoothing_sigma_vox)) if happens() else None,
        sharpening=sharpening() if happens() else None,
    )


def apply_artefacts(channel: Tensor, artefacts: Artefacts) -> Tensor:
    """Apply what was drawn.

    Args:
        channel: (X, Y, Z) in [0, 1].
        artefacts: From :func:`sample_artefacts`.

    Returns:
        (X, Y, Z), around [0, 1].
    """
    steps: tuple[tuple[Callable[[Tensor, Any], Tensor], Any], ...] = (
        (apply_noise, artefacts.noise),
        (apply_bias_field, artefacts.bias_field),
        (apply_gibbs, artefacts.gibbs),
        (apply_gamma, artefacts.gamma),
        (apply_smoothing, artefacts.smoothing),
        (apply_sharpening, artefacts.sharpening),
    )
    for apply, drawn in steps:
        channel = channel if drawn is None else apply(channel, drawn)
    return channel


class IntensityArtefacts(ImageOnlyTransform):
    """New :func:`sample_artefacts` for every patch and channel.

    Args:
        config: The ranges.
        modalities: ``ct`` or ``mr``, one a channel.
    """

    def __init__(self, config: AugmentationConfig, modalities: Sequence[str]) -> None:
        super().__init__()
        self.config, self.modalities = config, tuple(modalities)

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        # nnU-Net seeds NumPy's global state in each of its workers; torch's is the same in all of
        # them.
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        return {"drawn": [sample_artefacts(self.config, modality, rng=rng) for modality in self.modalities]}

    def _apply_to_image(self, img: Tensor, drawn: Sequence[Artefacts]) -> Tensor:
        # Table 9's strengths are shares of [0, 1]; stock plans bring z-scores.
        channels = rescale_channels(img[None])[0]
        return torch.stack(
            [apply_artefacts(channel, artefacts) for channel, artefacts in zip(channels, drawn, strict=True)]
        )
