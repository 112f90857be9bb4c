"""Random affine maps of templates (Algorithm 1, line 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Generator

from pretraining.common.checks import check_not_negative, check_range
from pretraining.common.random import integers, uniforms


@dataclass(frozen=True, kw_only=True)
class AffineConfig:
    """Ranges of a template's random affine map."""

    scale: tuple[float, float] = (0.5, 1.5)
    """Range of each axis' scale, input voxels per output voxel: above 1 the shape shrinks."""
    max_rotation_deg: float = 180.0
    """Bound of each Euler angle, drawn from U[-max, max], degrees."""
    max_shear: float = 0.5
    """Bound of each of the three upper-triangular shears, drawn from U[-max, max]."""
    max_translation_vox: float = 5.0
    """Bound of the translation along each axis, drawn from U[-max, max], input voxels."""
    reflect: bool = True
    """Mirror each axis with probability 1/2."""

    def __post_init__(self) -> None:
        check_range("(0, inf)", scale=self.scale)
        check_not_negative(
            max_rotation_deg=self.max_rotation_deg,
            max_shear=self.max_shear,
            max_translation_vox=self.max_translation_vox,
        )


def sample_affine(config: AffineConfig, generator: Generator) -> np.ndarray:
    """Draw a random affine map from output to input voxel index.

    Args:
        config: Ranges.
        generator: Sole source of randomness.

    Returns:
        (3, 4) float64: the linear part diag(±scale)·R·Shear, then the translation.

    Notes:
        This is the behaviour of the published code. The paper's Algorithm 1 prints scales from
        U[-0.5, 0.5], meant as offsets from 1.
    """
    scales = np.array(uniforms(3, *config.scale, generator))
    signs = 1 - 2 * np.array(integers(3, 0, 1, generator))
    angles = uniforms(3, -config.max_rotation_deg, config.max_rotation_deg, generator)
    shears = uniforms(3, -config.max_shear, config.max_shear, generator)
    translation = uniforms(3, -config.max_translation_vox, config.max_translation_vox, generator)
    if config.reflect:
        scales = scales * signs
    linear = np.diag(scales) @ rotation_matrix(angles) @ shear_matrix(shears)
    return np.column_stack([linear, translation])


def rotation_matrix(angles_deg: Sequence[float], order: str = "xyz") -> np.ndarray:
    """Return the (3, 3) product of the rotations about each axis.

    Args:
        angles_deg: Angles about x, y and z, degrees.
        order: Order of the product: "xyz" is Rx·Ry·Rz, and "zxy" is ITK's Euler transform.
    """
    product = np.eye(3)
    for axis in ("xyz".index(name) for name in order):
        cos, sin = math.cos(math.radians(angles_deg[axis])), math.sin(math.radians(angles_deg[axis]))
        one, two = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(3)
        rotation[one, one], rotation[one, two], rotation[two, one], rotation[two, two] = cos, -sin, sin, cos
        product = product @ rotation
    return product


def shear_matrix(shears: Sequence[float]) -> np.ndarray:
    """Return the (3, 3) unit upper-triangular matrix with the shears (xy, xz, yz)."""
    xy, xz, yz = shears
    return np.array([[1.0, xy, xz], [0.0, 1.0, yz], [0.0, 0.0, 1.0]])


def recentre(linear: np.ndarray, centre_out: np.ndarray, centre_in: np.ndarray) -> np.ndarray:
    """Move a map about the origin to other centres.

    Args:
        linear: (3, 4) map about the origin.
        centre_out: (3,) fixed point in the output.
        centre_in: (3,) fixed point in the input.

    Returns:
        (3, 4) map that takes ``centre_out`` to ``centre_in`` plus the translation of ``linear``.
    """
    matrix, translation = linear[:, :3], linear[:, 3]
    return np.column_stack([matrix, translation + centre_in - matrix @ centre_out])
