"""Flips and an affine map, shared by labels and both views of a sample (Fig. 12, online set)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_probability, check_range
from pretraining.common.random import happens, uniforms
from pretraining.common.triple import triple
from pretraining.engine.affine import recentre, rotation_matrix
from pretraining.engine.resample import resample_labels, resample_linear


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Probabilities and ranges of flips and affine maps (TorchIO's convention)."""

    flip_probability: float = 0.9
    """Share of samples in which axes may be flipped."""
    axis_flip_probability: float = 0.5
    """Probability of a flip along each axis, in those samples."""
    affine_probability: float = 0.5
    """Share of samples with an affine map."""
    scale: tuple[float, float] = (0.6, 1.4)
    """Range of the scale along each axis; above 1 shapes grow."""
    max_rotation_deg: float = 45.0
    """Bound of each Euler angle, drawn from U[-max, max], degrees."""

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
    """Random parameters of the geometry of one sample."""

    flipped_axes: tuple[int, ...]
    """Axes to flip."""
    scales: tuple[float, float, float] | None
    """Scale along each axis; None for no affine map."""
    angles_deg: tuple[float, float, float] | None
    """Euler angles, degrees; None for no affine map."""


def sample_geometry(config: GeometryConfig, generator: Generator) -> Geometry:
    """Draw flips, scales and angles."""
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
    """Flip labels and views, then map both about the centre of the volume.

    Args:
        labels: (X, Y, Z); looked up at the nearest voxel, 0 outside.
        views: (2, X, Y, Z) float32; interpolated linearly, each view's minimum outside.
        params: Parameters from :func:`sample_geometry`.

    Returns:
        Labels and views, same shapes and types.
    """
    if params.flipped_axes:
        labels = labels.flip(params.flipped_axes)
        views = views.flip([axis + 1 for axis in params.flipped_axes])
    if params.scales is None or params.angles_deg is None:
        return labels, views
    matrix = output_to_input(params.scales, params.angles_deg, tuple(labels.shape))
    return resample_labels(labels, matrix), resample_linear(views, matrix)


def output_to_input(scales: tuple[float, ...], angles_deg: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Return the map that rotates shapes by Rz·Rx·Ry and then scales them, about the centre.

    Args:
        scales: Scale along each axis.
        angles_deg: Angles about x, y and z, degrees.
        shape: (X, Y, Z) of the volume, voxels.

    Returns:
        (3, 4), from output to input voxel index.
    """
    linear = np.linalg.inv(np.diag(scales) @ rotation_matrix(angles_deg, order="zxy"))
    middle = (np.array(shape) - 1) / 2
    return recentre(np.column_stack([linear, np.zeros(3)]), middle, middle)
