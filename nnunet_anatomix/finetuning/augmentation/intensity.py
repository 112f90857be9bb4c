"""Intensity artefacts of Table 9, applied by the synthesis engine (parameters as in MONAI)."""

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
"""Degree of the bias field's polynomial, as in MONAI."""


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Parameters of one channel's artefacts, in order of application; None is skipped."""

    noise: Noise | None = None
    bias_field: BiasField | None = None
    gibbs: Gibbs | None = None
    gamma: Gamma | None = None
    smoothing: Smoothing | None = None
    sharpening: Sharpening | None = None


def sample_artefacts(config: AugmentationConfig, modality: str, *, rng: np.random.Generator) -> Artefacts:
    """Draw the artefacts of one channel.

    Args:
        config: Probabilities and ranges.
        modality: ``ct`` or ``mr``; CT gets neither bias field nor Gibbs ringing.
        rng: Sole source of randomness.
    """

    def occurs() -> bool:
        return bool(rng.random() < config.probability)

    def draw(bounds: tuple[float, float]) -> float:
        return float(rng.uniform(*bounds))

    def draw_per_axis(bounds: tuple[float, float]) -> tuple[float, float, float]:
        return draw(bounds), draw(bounds), draw(bounds)

    def bias_field() -> BiasField:
        terms = len(term_degrees(BIAS_FIELD_DEGREE))
        return BiasField(
            degree=BIAS_FIELD_DEGREE, coefficients=tuple(draw(config.bias_coefficients) for _ in range(terms))
        )

    def sharpening() -> Sharpening:
        return Sharpening(
            strength=draw(config.sharpening_alpha),
            sigma1_vox=draw_per_axis(config.sharpening_sigma1_vox),
            sigma2_vox=draw_per_axis(config.sharpening_sigma2_vox),
        )

    is_mr = modality != "ct"
    return Artefacts(
        noise=Noise(std=draw((0.0, config.noise_max_std)), noise_seed=int(rng.integers(2**31))) if occurs() else None,
        bias_field=bias_field() if is_mr and occurs() else None,
        gibbs=Gibbs(alpha=draw(config.gibbs_alpha)) if is_mr and occurs() else None,
        gamma=Gamma(exponent=draw(config.gamma)) if occurs() else None,
        smoothing=Smoothing(sigma_vox=draw_per_axis(config.smoothing_sigma_vox)) if occurs() else None,
        sharpening=sharpening() if occurs() else None,
    )


def apply_artefacts(channel: Tensor, artefacts: Artefacts) -> Tensor:
    """Apply artefacts to one channel.

    Args:
        channel: (X, Y, Z) in [0, 1].
        artefacts: Parameters from :func:`sample_artefacts`.

    Returns:
        (X, Y, Z); values may slightly exceed [0, 1].
    """
    steps: tuple[tuple[Callable[[Tensor, Any], Tensor], Any], ...] = (
        (apply_noise, artefacts.noise),
        (apply_bias_field, artefacts.bias_field),
        (apply_gibbs, artefacts.gibbs),
        (apply_gamma, artefacts.gamma),
        (apply_smoothing, artefacts.smoothing),
        (apply_sharpening, artefacts.sharpening),
    )
    for apply, parameters in steps:
        channel = channel if parameters is None else apply(channel, parameters)
    return channel


class IntensityArtefacts(ImageOnlyTransform):
    """Random intensity artefacts, drawn for every patch and channel.

    Args:
        config: Probabilities and ranges.
        modalities: ``ct`` or ``mr``, one per channel.
    """

    def __init__(self, config: AugmentationConfig, modalities: Sequence[str]) -> None:
        super().__init__()
        self.config, self.modalities = config, tuple(modalities)

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        # nnU-Net seeds NumPy's global state in each worker; torch's is the same in all workers.
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        return {"drawn": [sample_artefacts(self.config, modality, rng=rng) for modality in self.modalities]}

    def _apply_to_image(self, img: Tensor, drawn: Sequence[Artefacts]) -> Tensor:
        # The strengths of Table 9 refer to intensities in [0, 1]; stock plans have z-scores.
        channels = rescale_channels(img[None])[0]
        return torch.stack(
            [apply_artefacts(channel, artefacts) for channel, artefacts in zip(channels, drawn, strict=True)]
        )


class StandardizeChannels(ImageOnlyTransform):
    """Shift and scale every channel of a patch to mean 0 and standard deviation 1.

    The strengths of nnU-Net's augmentation refer to z-scores; our plans have intensities in [0, 1].
    """

    def _apply_to_image(self, img: Tensor, **_: Any) -> Tensor:
        spread, mean = torch.std_mean(img, dim=(1, 2, 3), keepdim=True)
        return (img - mean) / spread.clamp(min=1e-8)
