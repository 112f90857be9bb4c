"""Flips and an affine map of a whole sample: labels and both views alike (Fig. 12, the online set)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability, check_range
from pretraining.common.random import happens, uniforms
from pretraining.common.triple import triple
from pretraining.engine.affine import about, rotation_matrix
from pretraining.engine.resample import resample_labels, resample_linear


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """How often and how far (TorchIO's meaning)."""

    flip_probability: float = 0.9
    """Share of samples that may be flipped at all."""
    axis_flip_probability: float = 0.5
    """Then, of each axis."""
    affine_probability: float = 0.5
    """Share of samples with an affine map."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Range of each axis' scale; above 1 things get larger."""
    max_rotation_deg: float = 45.0
    """Each Euler angle is drawn from U[-max, max], degrees."""

    def __post_init__(self) -> None:
        check_probability(
            flip_probability=self.flip_probability,
            axis_flip_probability=self.axis_flip_probability,
            affine_probability=self.affine_probability,
        )
        check_range("(0, inf)", scale=self.scale)
        check_not_negative(max_rotation_deg=self.max_rotation_deg)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One draw, for a whole sample."""

    flipped_axes: tuple[int, ...]
    scales: tuple[float, float, float] | None
    """None, with the angles: no affine map."""
    angles_deg: tuple[float, float, float] | None


def sample_geometry(config: GeometryConfig, generator: Generator) -> Geometry:
    """Draw flips, and scales and angles."""
    may_flip = happens(config.flip_probability, generator)
    flips = [happens(config.axis_flip_probability, generator) and may_flip for _ in range(3)]
    mapped = happens(config.affine_probability, generator)
    return Geometry(
        flipped_axes=tuple(axis for axis in range(3) if flips[axis]),
        scales=triple(uniforms(3, *config.scale, generator)) if mapped else None,
        angles_deg=triple(uniforms(3, -config.max_rotation_deg, config.max_rotation_deg, generator))
        if mapped
        else None,
    )


def apply_geometry(labels: Tensor, views: Tensor, params: Geometry) -> tuple[Tensor, Tensor]:
    """Flip and map labels (X, Y, Z), nearest, and views (2, X, Y, Z), linear; about the middle of the volume.

    What comes from outside is label 0 and each view's least value.
    """
    if params.flipped_axes:
        labels = labels.flip(params.flipped_axes)
        views = views.flip([axis + 1 for axis in params.flipped_axes])
    if params.scales is None or params.angles_deg is None:
        return labels, views
    matrix = output_to_input(params.scales, params.angles_deg, tuple(labels.shape))
    return resample_labels(labels, matrix), resample_linear(views, matrix)


def output_to_input(scales: tuple[float, ...], angles_deg: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """(3, 4) map of output to input voxel index that turns things by Rz·Rx·Ry, then scales them, about the middle."""
    linear = np.linalg.inv(np.diag(scales) @ rotation_matrix(angles_deg, order="zxy"))
    middle = (np.array(shape) - 1) / 2
    return about(np.column_stack([linear, np.zeros(3)]), middle, middle)
