"""Foreground mask of a label ensemble: a warped ball and its envelope (Algorithm 1, lines 9-18)."""

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
"""Side of the paper's volumes, voxels. Ball and warp are specified for it and scale with it."""


@dataclass(frozen=True, kw_only=True)
class ForegroundConfig:
    """Settings of the foreground mask and its envelope; lengths are for a side of 128 voxels."""

    probability: float = 2 / 3
    """Share of ensembles with a foreground mask."""
    radius_vox: tuple[int, int] = (48, 72)
    """Range of the ball's radius, voxels at side 128."""
    max_offset_vox: int = 32
    """Bound of the centre's offset along each axis, drawn from U{-max..max}, voxels at side 128."""
    warp_scales_vox: tuple[float, ...] = (8.0, 16.0, 32.0)
    """Coarse-grid spacings of the warp, voxels at side 128."""
    warp_std_vox: tuple[float, float] = (1.0, 5.0)
    """Range of each scale's std of displacement, voxels at side 128."""
    envelope_probability: float = 1 / 2
    """Share of masked ensembles with an envelope."""
    envelope_radius_vox: tuple[int, int] = (2, 4)
    """Range of the radius of the dilating and eroding ball, voxels at any side."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability, envelope_probability=self.envelope_probability)
        check_range("(0, inf)", radius_vox=self.radius_vox)
        check_not_negative(max_offset_vox=self.max_offset_vox)
        check_positive(warp_scales_vox=self.warp_scales_vox)
        check_range("[0, inf)", warp_std_vox=self.warp_std_vox)
        check_range("[1, inf)", envelope_radius_vox=self.envelope_radius_vox)


@dataclass(frozen=True, kw_only=True)
class Foreground:
    """Random parameters of one foreground mask."""

    radius_vox: float
    """Radius of the ball, voxels."""
    centre_vox: tuple[float, float, float]
    """Voxel index of the ball's centre, not necessarily whole."""
    warp: SmoothNoise
    """Displacement, voxels."""
    envelope_radius_vox: int | None
    """Radius of the dilating and eroding ball, voxels; None for no envelope."""


def sample_foreground(config: ForegroundConfig, shape: tuple[int, int, int], generator: Generator) -> Foreground | None:
    """Draw a foreground mask for volumes of ``shape``; None if the ensemble has none."""
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
    """Compute the warped ball, (X, Y, Z) bool.

    Args:
        shape: (X, Y, Z), voxels.
        params: Parameters from :func:`sample_foreground`.
        device: Device that computes the mask.

    Notes:
        A voxel is set if its displaced position, rounded to a voxel and mirrored at the borders, is
        within the radius. This equals a nearest-neighbour warp of a ball without a volume of the
        ball. A median filter smooths the result.
    """
    displacement_vox = smooth_noise(shape, params.warp, channels=3, device=device)
    if torch.device(device).type == "cpu":
        inside = torch.empty(shape, dtype=torch.bool)
        centre_vox = np.array(params.centre_vox, dtype=np.float32)
        _warp_ball_on_host(displacement_vox.numpy(), centre_vox, np.float32(params.radius_vox**2), inside.numpy())
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
def _warp_ball_on_host(displacement, centre, squared_radius, inside):
    """Set ``inside`` to whether each voxel's displaced position is within the ball.

    One turn is a way along the axis and back: a mirrored position is the distance from the nearest
    multiple of it.
    """
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
    """Mask a label volume: 0 outside, labels plus 1 inside, ``envelope_label`` in the envelope.

    Args:
        labels: (X, Y, Z) uint8.
        params: Parameters from :func:`sample_foreground`.
        envelope_label: Label of the envelope, above every label inside.

    Returns:
        (X, Y, Z) uint8.
    """
    mask = foreground_mask(triple(labels.shape), params, labels.device)
    masked = (labels + 1) * mask
    if params.envelope_radius_vox is not None:
        masked.masked_fill_(shell(mask, params.envelope_radius_vox), envelope_label)
    return masked
