"""Smooth random deformation of each template, as curves along the axes of the volume that it is placed in.

The displacement at (x, y, z) is f(x) + g(y) + h(z), with f, g and h smooth random curves of three
components each. A template's coordinate is looked up as such a sum anyway
(:mod:`pretraining.engine.placement`), so bending adds nothing to the cost of a voxel, and the host
and a device use the same numbers.
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
"""Per axis of the volume, (3, X), (3, Y), (3, Z) float64: what each index adds to the template's
three coordinates, voxels.
"""

_MEAN_SQUARE = 151 / 315
"""Mean variance of a uniform cubic B-spline whose coefficients have variance 1."""


@dataclass(frozen=True, kw_only=True)
class BendConfig:
    """Smooth random deformation of each placed template; not part of the published engine, which has none."""

    probability: float = 0.0
    """Share of templates that are bent."""
    spacing_vox: tuple[float, float] = (16.0, 48.0)
    """Range of the distance between a curve's control points, voxels of the volume at any side;
    larger is smoother.
    """
    max_std_vox: float = 4.0
    """A curve's standard deviation is drawn from U[0, max], voxels of the template."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range("[1, inf)", spacing_vox=self.spacing_vox)
        check_not_negative(max_std_vox=self.max_std_vox)


@dataclass(frozen=True, kw_only=True)
class Bend:
    """One draw for one template."""

    spacing_vox: float
    """Distance between control points, voxels of the volume."""
    std_vox: float
    """Standard deviation of each curve, voxels of the template."""
    noise_seed: int
    """Expands into the control points."""


def sample_bend(config: BendConfig, generator: Generator) -> Bend | None:
    """Draw the deformation of one template, or none; without bending, nothing is taken from the generator."""
    if config.probability == 0 or not happens(config.probability, generator):
        return None
    return Bend(
        spacing_vox=uniform(*config.spacing_vox, generator),
        std_vox=uniform(0.0, config.max_std_vox, generator),
        noise_seed=noise_seed(generator),
    )


def bend_curves(bend: Bend, shape: Shape) -> Curves:
    """Expand a draw into curves.

    Args:
        bend: From :func:`sample_bend`.
        shape: (X, Y, Z) of the volume, voxels.

    Returns:
        For each axis of the volume, uniform cubic B-splines of normally distributed coefficients,
        with zero mean and the standard deviation of the draw.

    Notes:
        A displacement without terms that mix the axes bends, stretches and shears a shape
        differently from place to place, but does not twist it. The axes are those of the volume,
        and templates are rotated at random against them.
    """
    counts = [math.ceil(size / bend.spacing_vox) + 3 for size in shape]
    normal = torch.randn(3, sum(counts), generator=noise_generator(bend.noise_seed, "cpu"), dtype=torch.float64)
    coefficients = normal.numpy() * (bend.std_vox / math.sqrt(_MEAN_SQUARE))
    # All curves at once: each axis begins where the coefficients of the one before end.
    starts = np.cumsum([0, *counts[:-1]])
    position = np.concatenate(
        [start + np.arange(size) / bend.spacing_vox for start, size in zip(starts, shape, strict=True)]
    )
    values = _cubic_spline(coefficients, position)
    return triple(np.split(values, np.cumsum(shape)[:-1], axis=1))


def _cubic_spline(coefficients: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(3, N) values at ``position`` (N,), in control points; the segment [i, i + 1) is made of coefficients i to i + 3."""
    first = position.astype(np.int64)
    t = position - first
    rest, square = 1 - t, t * t
    weights = (rest**2 * rest, 3 * square * t - 6 * square + 4, 3 * (square * rest + t) + 1, square * t)
    return sum(weight * coefficients[:, first + i] for i, weight in enumerate(weights)) / 6
