"""The foreground mask of a label ensemble: a warped sphere, and an envelope around it (Algorithm 1, lines 9 to 18)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_not_negative, check_positive, check_probability, check_range
from pretraining.common.random import happens, integer, integers
from pretraining.common.triple import triple
from pretraining.engine.execution import compile_loop
from pretraining.engine.fields import SmoothNoise, sample_smooth_noise, smooth_noise
from pretraining.engine.median import majority_3x3x3
from pretraining.engine.morphology import shell

REFERENCE_SIDE = 128
"""Side of the paper's volumes, voxels; the sphere and its warp are given for it and scale with the
side.
"""


@dataclass(frozen=True, kw_only=True)
class ForegroundConfig:
    """How often there is a foreground mask or an envelope, and their sizes; lengths are for a side of 128 voxels."""

    probability: float = 2 / 3
    """Share of ensembles with a foreground mask."""
    radius_vox: tuple[int, int] = (48, 72)
    """Range of the sphere's radius, at side 128."""
    max_offset_vox: int = 32
    """Each axis of the sphere's centre is off the middle by U{-max..max}, at side 128."""
    warp_scales_vox: tuple[float, ...] = (8.0, 16.0, 32.0)
    """Coarse-grid spacings of the warp, at side 128."""
    warp_std_vox: tuple[float, float] = (1.0, 5.0)
    """Range of each scale's std of displacement, at side 128."""
    envelope_probability: float = 1 / 2
    """Share of masked ensembles with an envelope."""
    envelope_radius_vox: tuple[int, int] = (2, 4)
    """Range of the radius of the ball that dilates and erodes; voxels at any side."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability, envelope_probability=self.envelope_probability)
        check_range("(0, inf)", radius_vox=self.radius_vox)
        check_not_negative(max_offset_vox=self.max_offset_vox)
        check_positive(warp_scales_vox=self.warp_scales_vox)
        check_range("[0, inf)", warp_std_vox=self.warp_std_vox)
        check_range("[1, inf)", envelope_radius_vox=self.envelope_radius_vox)


@dataclass(frozen=True, kw_only=True)
class Foreground:
    """One draw of a foreground mask."""

    radius_vox: float
    centre_vox: tuple[float, float, float]
    """Voxel index, not necessarily whole."""
    warp: SmoothNoise
    """Displacement, voxels."""
    envelope_radius_vox: int | None
    """None: no envelope."""


def sample_foreground(config: ForegroundConfig, shape: tuple[int, int, int], generator: Generator) -> Foreground | None:
    """Draw a foreground mask for volumes of ``shape``, or None where there is none."""
    if not happens(config.probability, generator):
        return None
    scale = min(shape) / REFERENCE_SIDE
    radius = integer(*config.radius_vox, generator) * scale
    offsets = integers(3, -config.max_offset_vox, config.max_offset_vox, generator)
    warp_scales = [spacing * scale for spacing in config.warp_scales_vox]
    min_std, max_std = (std * scale for std in config.warp_std_vox)
    return Foreground(
        radius_vox=radius,
        centre_vox=triple(
            size / 2 + offset * size / REFERENCE_SIDE for size, offset in zip(shape, offsets, strict=True)
        ),
        warp=sample_smooth_noise(warp_scales, min_std, max_std, generator),
        envelope_radius_vox=integer(*config.envelope_radius_vox, generator)
        if happens(config.envelope_probability, generator)
        else None,
    )


def foreground_mask(shape: tuple[int, int, int], params: Foreground, device: torch.device | str = "cpu") -> Tensor:
    """Make the warped sphere, (X, Y, Z) bool.

    Notes:
        Warping a sphere by nearest lookup asks of each voxel whether the rounded, displaced
        position, mirrored at the borders, is within the radius; so no sphere is ever made. A median
        filter smooths the result.
    """
    displacement_vox = smooth_noise(shape, params.warp, channels=3, device=device)
    if torch.device(device).type == "cpu":
        inside = torch.empty(shape, dtype=torch.bool)
        centre_vox = np.array(params.centre_vox, dtype=np.float32)
        _warped_ball_on_host(displacement_vox.numpy(), centre_vox, np.float32(params.radius_vox**2), inside.numpy())
        return majority_3x3x3(inside)

    def squared_offset(axis: int) -> Tensor:
        index = torch.arange(shape[axis], device=device).view([-1 if a == axis else 1 for a in range(3)])
        position = (displacement_vox[axis] + index).round_()
        turn = 2 * max(shape[axis] - 1, 1)
        return (position - turn * (position / turn).round_()).abs_().sub_(params.centre_vox[axis]).square_()

    squared_distance = squared_offset(0)
    for axis in (1, 2):
        squared_distance.add_(squared_offset(axis))
    return majority_3x3x3(squared_distance <= params.radius_vox**2)


@compile_loop
def _warped_ball_on_host(displacement, centre, squared_radius, inside):
    """Whether each voxel's displaced position is in the ball; a mirrored position is its distance from the nearest whole turn."""
    _, nx, ny, nz = displacement.shape
    turn_x, turn_y, turn_z = (
        np.float32(2 * max(nx - 1, 1)),
        np.float32(2 * max(ny - 1, 1)),
        np.float32(2 * max(nz - 1, 1)),
    )
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                px = np.rint(displacement[0, x, y, z] + np.float32(x))
                py = np.rint(displacement[1, x, y, z] + np.float32(y))
                pz = np.rint(displacement[2, x, y, z] + np.float32(z))
                px = abs(px - turn_x * np.rint(px / turn_x)) - centre[0]
                py = abs(py - turn_y * np.rint(py / turn_y)) - centre[1]
                pz = abs(pz - turn_z * np.rint(pz / turn_z)) - centre[2]
                inside[x, y, z] = px * px + py * py + pz * pz <= squared_radius


def apply_foreground(labels: Tensor, params: Foreground, envelope_label: int) -> Tensor:
    """Mask a label volume: 0 outside, one more inside, ``envelope_label`` in the envelope.

    Args:
        labels: (X, Y, Z) uint8.
        envelope_label: Above every label inside.
    """
    mask = foreground_mask(triple(labels.shape), params, labels.device)
    masked = (labels + 1) * mask
    if params.envelope_radius_vox is not None:
        masked.masked_fill_(shell(mask, params.envelope_radius_vox), envelope_label)
    return masked
