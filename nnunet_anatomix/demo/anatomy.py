"""Synthetic torso of the demo: subjects that differ in shape and contrast."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from pretraining.common.random import sample_generator, uniforms
from pretraining.engine.appearance import Appearance, AppearanceConfig, apply_appearance, sample_appearance
from pretraining.engine.artefacts.gamma import GammaConfig
from pretraining.engine.artefacts.gibbs import GibbsConfig
from pretraining.engine.artefacts.low_resolution import LowResolutionConfig
from pretraining.engine.artefacts.sharpening import SharpeningConfig
from pretraining.engine.artefacts.smoothing import SmoothingConfig
from pretraining.engine.artefacts.spike import SpikeConfig
from pretraining.engine.fields import sample_smooth_noise, smooth_noise
from pretraining.engine.mixture import MixtureConfig

SHAPE, SPACING_MM = (48, 32, 32), 7.0
"""Size of every scan, voxels, and its spacing."""
_ELLIPSOIDS: dict[str, tuple[tuple[float, ...], ...]] = {
    "lungs": ((-0.47, 0.05, 0.55, 0.34, 0.62, 0.52), (0.47, 0.05, 0.55, 0.32, 0.6, 0.52)),
    "heart": ((0.12, -0.28, 0.38, 0.28, 0.38, 0.26),),
    "liver": ((-0.38, -0.05, -0.16, 0.45, 0.6, 0.3), (0.05, -0.42, -0.06, 0.36, 0.3, 0.18)),
    "stomach": ((0.4, -0.32, -0.3, 0.25, 0.36, 0.28),),
    "spleen": ((0.64, 0.3, -0.12, 0.22, 0.36, 0.26),),
    "kidneys": ((-0.38, 0.42, -0.58, 0.18, 0.28, 0.28), (0.38, 0.42, -0.6, 0.18, 0.28, 0.28)),
    "spine": ((0.0, 0.56, 0.0, 0.17, 0.28, 5.0),),
}
"""Ellipsoids of each organ: centre and semi-axes in units of half the volume's sides, along left,
posterior and superior. A later organ covers an earlier one.
"""
ORGANS = tuple(_ELLIPSOIDS)
"""Names of the organs in order of their labels, from 1."""
Contrast = Literal["T1", "T2"]
_DARK_TO_BRIGHT: dict[Contrast, tuple[str, ...]] = {
    "T1": ("air", "lungs", "spleen", "heart", "kidneys", "stomach", "liver", "spine", "body"),
    "T2": ("air", "lungs", "spine", "liver", "heart", "body", "spleen", "kidneys", "stomach"),
}
"""Tissues from dark to bright; fixed, as in scans of one sequence."""
_APPEARANCE = AppearanceConfig(
    mixture=MixtureConfig(std=(3.0, 8.0), zero_background_probability=1.0),
    spike=SpikeConfig(probability=0.0),
    gamma=GammaConfig(probability=0.0),
    gibbs=GibbsConfig(probability=0.0),
    smoothing=SmoothingConfig(probability=0.0),
    sharpening=SharpeningConfig(probability=0.0),
    low_resolution=LowResolutionConfig(probability=0.0),
)
"""Appearance of scans without severe artefacts: noise, texture and bias field."""


class Subject(NamedTuple):
    """Scan of one subject with its labels."""

    image: Tensor
    """(X, Y, Z) float32, arbitrary units; axes to the left, posterior and superior."""
    labels: Tensor
    """(X, Y, Z) uint8, 0 outside all organs."""


def make_subject(seed: int, number: int, contrast: Contrast = "T1", *, bend: float = 1.0) -> Subject:
    """Synthesize a subject: the anatomy, warped by a few voxels, in its own intensities.

    Args:
        seed: Seed of the anatomy.
        number: Number of the subject.
        contrast: Order of the tissues' intensities.
        bend: Factor of the displacement from the common anatomy.
    """
    warp = sample_smooth_noise((12.0, 24.0), 0.5, 1.0, sample_generator(seed, number, "demo warp"))
    displacement_vox = bend * smooth_noise(SHAPE, warp, channels=3)
    voxel = torch.stack(torch.meshgrid(*(torch.arange(size) for size in SHAPE), indexing="ij"))
    source = (voxel + displacement_vox).round().long()
    source = torch.stack([axis.clamp(0, size - 1) for axis, size in zip(source, SHAPE, strict=True)])
    tissue = _anatomy(seed)[source[0], source[1], source[2]]
    appearance = _sample_contrast(contrast, sample_generator(seed, number, f"demo {contrast}"))
    image = 1000 * apply_appearance(tissue, appearance)
    # Tissue 1 is the body around the organs.
    return Subject(image, (tissue.int() - 1).clamp_min(0).to(torch.uint8))


def _sample_contrast(contrast: Contrast, generator: Generator) -> Appearance:
    """Draw an appearance whose tissues have evenly spaced means, a little shifted."""
    ranked = _DARK_TO_BRIGHT[contrast]
    appearance = sample_appearance(_APPEARANCE, len(ranked), generator)
    step = 240.0 / (len(ranked) - 1)
    shifts = uniforms(len(ranked), -0.3 * step, 0.3 * step, generator)
    means = tuple(
        ranked.index(name) * step + shift for name, shift in zip(("air", "body", *ORGANS), shifts, strict=True)
    )
    return replace(appearance, mixture=replace(appearance.mixture, means=means))


@lru_cache(maxsize=1)
def _anatomy(seed: int) -> Tensor:
    """Return the tissues of an anatomy, (X, Y, Z) uint8: 0 air, 1 body, 2 and above the organs."""
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    bend = sample_smooth_noise((8.0, 16.0), 0.02, 0.05, sample_generator(seed, 0, "demo anatomy"))
    grid = grid + smooth_noise(SHAPE, bend, channels=3)
    x, y, z = grid
    tissue = ((x / (0.95 - 0.08 * z)).square() + (y / 0.92).square() < 1).to(torch.uint8)
    for label, ellipsoids in enumerate(_ELLIPSOIDS.values(), start=2):
        for numbers in ellipsoids:
            centre, axes = torch.tensor(numbers).view(2, 3, 1, 1, 1)
            inside = ((grid - centre) / axes).square().sum(0) < 1
            tissue[inside & (tissue > 0)] = label
    return tissue
