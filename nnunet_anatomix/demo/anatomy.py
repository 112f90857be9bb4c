"""Synthetic anatomy of the demo: subjects that differ in shape and contrast."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from pretraining.common.random import sample_generator
from pretraining.engine.appearance import Appearance, AppearanceConfig, apply_appearance, sample_appearance
from pretraining.engine.artefacts.gibbs import GibbsConfig
from pretraining.engine.artefacts.low_resolution import LowResolutionConfig
from pretraining.engine.artefacts.sharpening import SharpeningConfig
from pretraining.engine.artefacts.spike import SpikeConfig
from pretraining.engine.fields import sample_smooth_noise, smooth_noise
from pretraining.templates.procedural import procedural_shape

SHAPE = (48, 48, 48)
"""Size of every scan, voxels."""
PLACES = {
    "liver": ("blob", (-0.42, 0.0, 0.15), 0.60),
    "spleen": ("bean", (0.48, -0.1, 0.4), 0.45),
    "kidney": ("ellipsoid", (0.4, 0.15, -0.45), 0.45),
}
"""Procedural shape, centre and size of each organ, in units of half the volume's side."""
ORGANS = tuple(PLACES)
"""Names of the organs in order of their labels, from 1."""
_APPEARANCE = AppearanceConfig(
    spike=SpikeConfig(probability=0.0),
    gibbs=GibbsConfig(probability=0.0),
    sharpening=SharpeningConfig(probability=0.0),
    low_resolution=LowResolutionConfig(probability=0.0),
)
"""Appearance of scans without severe artefacts: noise, texture, bias field, gamma and blur."""
_BRIGHTNESS = (0, 2, 4, 3, 1)
"""Rank of air, body and each organ from dark to bright; fixed, as in scans of one sequence."""
_LEAST_CONTRAST = 30.0
"""Minimum difference between the mean intensities of any two tissues, on a scale of 255."""


class Subject(NamedTuple):
    """Scan of one subject with its labels."""

    image: Tensor
    """(X, Y, Z) float32, arbitrary units."""
    labels: Tensor
    """(X, Y, Z) uint8, 0 outside all organs."""


def make_subject(seed: int, number: int) -> Subject:
    """Synthesize a subject: the anatomy, warped by a few voxels, in its own contrast.

    Args:
        seed: Seed of the anatomy.
        number: Number of the subject.
    """
    tissue = _anatomy(seed)
    warp = sample_smooth_noise((12.0, 24.0), 1.0, 2.0, sample_generator(seed, number, "demo warp"))
    displacement_vox = smooth_noise(SHAPE, warp, channels=3)
    voxel = torch.stack(torch.meshgrid(*(torch.arange(size) for size in SHAPE), indexing="ij"))
    source = (voxel + displacement_vox).round().long()
    source = torch.stack([axis.clamp(0, size - 1) for axis, size in zip(source, SHAPE, strict=True)])
    tissue = tissue[source[0], source[1], source[2]]
    appearance = _sample_contrast(int(tissue.max()) + 1, sample_generator(seed, number, "demo contrast"))
    image = 1000 * apply_appearance(tissue, appearance)
    # Tissue 1 is the body around the organs.
    return Subject(image, (tissue.int() - 1).clamp_min(0).to(torch.uint8))


def _sample_contrast(tissues: int, generator: Generator) -> Appearance:
    """Draw an appearance with distinct tissues whose order of brightness is fixed."""
    while True:
        appearance = sample_appearance(_APPEARANCE, tissues, generator)
        means = sorted(appearance.mixture.means)
        if min(high - low for low, high in pairwise(means)) >= _LEAST_CONTRAST:
            ranked = tuple(means[rank] for rank in _BRIGHTNESS)
            return replace(appearance, mixture=replace(appearance.mixture, means=ranked))


@lru_cache(maxsize=1)
def _anatomy(seed: int) -> Tensor:
    """Return the tissues of an anatomy, (X, Y, Z) uint8: 0 air, 1 body, 2 and above the organs."""
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    tissue = (grid.square().sum(dim=0) < 0.92).to(torch.uint8)
    for label, (kind, centre, size) in enumerate(PLACES.values(), start=2):
        organ = procedural_shape(kind, sample_generator(seed, label, "demo organ")).float()
        # grid_sample expects the last axis first. Positions are already in units of half a side;
        # interpolate_at takes voxels, which would round differently and change the demo's organs.
        local = ((grid - torch.tensor(centre).view(3, 1, 1, 1)) / size).flip(0).permute(1, 2, 3, 0)
        inside = functional.grid_sample(organ[None, None], local[None], mode="bilinear", align_corners=True)[0, 0] > 0.5
        tissue[inside & (tissue == 1)] = label
    if missing := sorted(set(range(2, 2 + len(PLACES))) - set(np.unique(tissue.numpy()))):
        raise ValueError(
            f"seed {seed} hides the organs {[ORGANS[label - 2] for label in missing]}; choose another seed"
        )
    return tissue
