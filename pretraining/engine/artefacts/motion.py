"""Motion: a subject that moves while k-space is acquired, one slab of k-space per position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_count, check_not_negative, check_probability
from pretraining.common.random import happens, uniforms
from pretraining.engine.affine import rotation_matrix
from pretraining.engine.execution import upload
from pretraining.engine.resample import resample_linear

JITTER = 0.3
"""Greatest deviation of a movement's time from even spacing, in spacings (TorchIO's value)."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Probability and ranges of motion (TorchIO's convention and defaults, voxels of 1 mm)."""

    probability: float = 0.33
    """Share of views with motion."""
    max_rotation_deg: float = 10.0
    """Bound of each angle of each movement, drawn from U[-max, max], degrees."""
    max_translation_vox: float = 10.0
    """Bound of each movement along each axis, drawn from U[-max, max], voxels."""
    movement_count: int = 2
    """Number of movements during the acquisition."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_not_negative(max_rotation_deg=self.max_rotation_deg, max_translation_vox=self.max_translation_vox)
        check_count(movement_count=self.movement_count)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Random parameters of the motion in one view."""

    rotations_deg: tuple[tuple[float, ...], ...]
    """Three angles per movement, degrees."""
    translations_vox: tuple[tuple[float, ...], ...]
    """Translation along each axis per movement, voxels."""
    times: tuple[float, ...]
    """Time of each movement as a share of the acquisition, ascending in (0, 1)."""


def sample_motion(config: MotionConfig, generator: Generator) -> Motion | None:
    """Draw the movements and their times; None if the subject does not move."""
    if not happens(config.probability, generator):
        return None
    count = config.movement_count
    spacing = 1 / (count + 1)
    shifts = uniforms(count, -JITTER * spacing, JITTER * spacing, generator)
    return Motion(
        rotations_deg=tuple(
            tuple(uniforms(3, -config.max_rotation_deg, config.max_rotation_deg, generator)) for _ in range(count)
        ),
        translations_vox=tuple(
            tuple(uniforms(3, -config.max_translation_vox, config.max_translation_vox, generator)) for _ in range(count)
        ),
        times=tuple((i + 1) * spacing + shift for i, shift in enumerate(shifts)),
    )


def apply_motion(volume: Tensor, params: Motion) -> Tensor:
    """Compose the k-space of (X, Y, Z) from slabs along its last axis, each of a moved copy.

    The slab with zero frequency is that of the volume itself.

    Notes:
        Rotations are about voxel (0, 0, 0), as in TorchIO, which does not use the centre that it
        computes. The slabs differ along the last axis only, so transforms along that axis suffice.
        The real part is computed as in :mod:`pretraining.engine.artefacts.gibbs`.
    """
    size = volume.shape[2]
    moved = [volume]
    for angles, translation in zip(params.rotations_deg, params.translations_vox, strict=True):
        matrix = np.column_stack([rotation_matrix(angles, order="zxy"), translation])
        moved.append(resample_linear(volume[None], matrix)[0])
    late = [i for i, time in enumerate(params.times) if time > 0.5]
    centre = late[0] if late else len(moved) - 1
    moved[0], moved[centre] = moved[centre], moved[0]
    ends = [0, *(int(size * time) for time in params.times), size]
    # Positions in the shifted k-space of each frequency of a real transform, and of its mirror
    # image.
    frequency = np.arange(size // 2 + 1)
    direct, mirrored = (frequency + size // 2) % size, (-frequency + size // 2) % size
    spectrum = None
    for copy, first, last in zip(moved, ends[:-1], ends[1:], strict=True):
        weight = ((direct >= first) & (direct < last)) * 0.5 + ((mirrored >= first) & (mirrored < last)) * 0.5
        slab = torch.fft.rfft(copy).mul_(upload(weight.astype(np.float32), volume.device))
        spectrum = slab if spectrum is None else spectrum.add_(slab)
    return torch.fft.irfft(spectrum, n=size)
