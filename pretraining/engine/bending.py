"""Smooth random deformation of each template, as curves along the axes of the label volume.

The displacement at (x, y, z) is f(x) + g(y) + h(z), with f, g and h smooth random curves of three
components each. :mod:`pretraining.engine.placement` computes a template's coordinate as such a sum
in any case, so bending adds nothing to the cost of a voxel, and CPU and GPU use the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from pretraining.common.checks import check_not_negative, check_probability, check_range
from pretraining.common.random import happens, noise_generator, noise_seed, uniform
from pretraining.common.triple import triple

Shape = tuple[int, int, int]
Curves = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Contribution of each index along each axis of the volume to the template's three coordinates:
(3, X), (3, Y), (3, Z) float64, voxels.
"""

_MEAN_SQUARE = 151 / 315
"""Mean variance of a uniform cubic B-spline whose coefficients have variance 1."""


@dataclass(frozen=True, kw_only=True)
class BendConfig:
    """Settings of the smooth deformation of templates; the published engine has none."""

    probability: float = 0.0
    """Share of templates that are bent."""
    spacing_vox: tuple[float, float] = (16.0, 48.0)
    """Range of the control-point spacing, voxels of the volume at any side; larger is smoother."""
    max_std_vox: float = 4.0
    """Bound of each curve's standard deviation, drawn from U[0, max], voxels of the template."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[1, inf)", spacing_vox=self.spacing_vox)
        check_not_negative(max_std_vox=self.max_std_vox)


@dataclass(frozen=True, kw_only=True)
class Bend:
    """Random parameters of one template's deformation."""

    spacing_vox: float
    """Distance between control points, voxels of the volume."""
    std_vox: float
    """Standard deviation of each curve, voxels of the template."""
    noise_seed: int
    """Seed of the control points."""


def sample_bend(config: BendConfig, generator: Generator) -> Bend | None:
    """Draw the deformation of one template; None if it is not bent.

    With a probability of 0, the generator is not used.
    """
    if config.probability == 0 or not happens(config.probability, generator):
        return None
    return Bend(
        spacing_vox=uniform(*config.spacing_vox, generator),
        std_vox=uniform(0.0, config.max_std_vox, generator),
        noise_seed=noise_seed(generator),
    )


def bend_curves(bend: Bend, shape: Shape) -> Curves:
    """Compute the displacement curves along each axis of the volume.

    Args:
        bend: Parameters from :func:`sample_bend`.
        shape: (X, Y, Z) of the volume, voxels.

    Returns:
        Uniform cubic B-splines along each axis, of normally distributed coefficients, with zero
        mean and the drawn standard deviation.

    Notes:
        A displacement without terms that mix the axes bends, stretches and shears a shape, with a
        strength that varies within the volume, but does not twist it. The axes are those of the
        volume, and templates are rotated at random against them.
    """
    counts = [math.ceil(size / bend.spacing_vox) + 3 for size in shape]
    normal = torch.randn(3, sum(counts), generator=noise_generator(bend.noise_seed, "cpu"), dtype=torch.float64)
    coefficients = normal.numpy() * (bend.std_vox / math.sqrt(_MEAN_SQUARE))
    # All curves are computed at once, from the concatenated coefficients of the three axes.
    starts = np.cumsum([0, *counts[:-1]])
    position = np.concatenate(
        [start + np.arange(size) / bend.spacing_vox for start, size in zip(starts, shape, strict=True)]
    )
    values = _cubic_spline(coefficients, position)
    return triple(np.split(values, np.cumsum(shape)[:-1], axis=1))


def _cubic_spline(coefficients: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Evaluate a uniform cubic B-spline; the segment [i, i + 1) depends on coefficients i to i + 3.

    Args:
        coefficients: (3, M), one row per component.
        position: (N,), in units of the control-point spacing.

    Returns:
        (3, N).
    """
    first = position.astype(np.int64)
    t = position - first
    rest, square = 1 - t, t * t
    weights = (rest**2 * rest, 3 * square * t - 6 * square + 4, 3 * (square * rest + t) + 1, square * t)
    return sum(weight * coefficients[:, first + i] for i, weight in enumerate(weights)) / 6
