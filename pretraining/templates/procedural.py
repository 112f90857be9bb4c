"""Procedural organ-like shapes, the default templates: no download and no licence is needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.random import integer, sample_generator, uniform, uniforms
from pretraining.common.triple import triple
from pretraining.engine.affine import rotation_matrix
from pretraining.engine.fields import sample_smooth_noise, smooth_noise

SPACING_MM = 1.5
"""Voxel size that the shapes represent, mm."""


def procedural_bank(count: int = 160, seed: int = 0) -> TemplateBank:
    """Make a bank of procedural shapes in memory, in about 3 ms per shape.

    Args:
        count: Number of templates, >= 1; the kinds in ``KINDS`` alternate.
        seed: Seed of the shapes, in [0, 2**63).

    Returns:
        The bank, a pure function of the arguments.

    Raises:
        ValueError: If ``count`` or ``seed`` is out of range.
    """
    if count < 1:
        raise ValueError(f"a bank needs at least one shape, got count={count}")
    names = [list(KINDS)[i % len(KINDS)] for i in range(count)]
    masks = [procedural_shape(name, sample_generator(seed, i, "shape")) for i, name in enumerate(names)]
    return TemplateBank.from_masks(masks, names, source="procedural", spacing_mm=SPACING_MM)


def procedural_shape(kind: str, generator: Generator) -> Tensor:
    """Draw one shape.

    Args:
        kind: A key of ``KINDS``.
        generator: Sole source of randomness.

    Returns:
        (X, Y, Z) bool with at least one set voxel, 28 to 104 voxels per side.
    """
    # Levels are smooth: half the resolution suffices, with an eighth of the computations.
    side = integer(14, 52, generator)
    shape = (side, side, side)
    line = torch.linspace(-1.0, 1.0, side)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"))
    # Coordinates are deformed, so that no shape is an ideal solid.
    bend = sample_smooth_noise((side / 2, side / 4), 0.04, 0.16, generator)
    points = points + smooth_noise(shape, bend, channels=3)
    rotation = torch.tensor(rotation_matrix(uniforms(3, -180.0, 180.0, generator)), dtype=torch.float32)
    points = torch.tensordot(rotation, points, dims=1)
    level = F.interpolate(
        KINDS[kind](points, generator)[None, None], scale_factor=2, mode="trilinear", align_corners=True
    )[0, 0]
    # The innermost voxels always belong to the shape, so that it is never empty.
    return level < torch.maximum(torch.tensor(0.0), level.min() + 1e-3)


def _ellipsoid(points: Tensor, generator: Generator) -> Tensor:
    """Compute a compact organ: kidney, spleen, heart."""
    axes = torch.tensor(uniforms(3, 0.45, 0.85, generator)).view(3, 1, 1, 1).float()
    return (points / axes).square().sum(0) - 1


def _bean(points: Tensor, generator: Generator) -> Tensor:
    """Compute an ellipsoid with a dent on one side: kidney, lung, kidney-like nuclei."""
    dent = (points - torch.tensor([uniform(0.6, 0.9, generator), 0.0, 0.0]).view(3, 1, 1, 1)).square().sum(0).sqrt()
    return torch.maximum(_ellipsoid(points, generator), uniform(0.35, 0.6, generator) - dent)


def _blob(points: Tensor, generator: Generator) -> Tensor:
    """Compute a lobed mass: bowel, brain, pancreas."""
    side = points.shape[-1]
    noise = smooth_noise(triple(points.shape[1:]), sample_smooth_noise((side / 4, side / 8), 0.2, 0.5, generator))[0]
    return points.square().sum(0) / uniform(0.4, 0.7, generator) - 1 + noise


def _tube(points: Tensor, generator: Generator) -> Tensor:
    """Compute a winding tube of varying width: vessel, gut."""
    x, y, z = points
    waves, phase_x, phase_y = uniform(0.5, 3.0, generator), *uniforms(2, 0.0, 2 * math.pi, generator)
    swing_x, swing_y = uniforms(2, 0.1, 0.4, generator)
    radius = uniform(0.07, 0.25, generator) * (1 + 0.3 * torch.sin(2 * z + phase_x))
    distance = (
        (x - swing_x * torch.sin(waves * z + phase_x)).square()
        + (y - swing_y * torch.sin(waves * z + phase_y)).square()
    ).sqrt()
    return torch.maximum(distance - radius, z.abs() - 0.9)


def _tree(points: Tensor, generator: Generator) -> Tensor:
    """Compute branching rods: vessels, bronchi, ribs."""
    root = torch.tensor([0.0, 0.0, -0.8]).view(3, 1, 1, 1)
    branches = []
    for _ in range(integer(3, 6, generator)):
        tip = torch.tensor([*uniforms(2, -0.7, 0.7, generator), uniform(0.0, 0.8, generator)]).view(3, 1, 1, 1).float()
        along = ((points - root) * (tip - root)).sum(0) / (tip - root).square().sum()
        along = along.clamp(0, 1)
        distance = (points - root - along * (tip - root)).square().sum(0).sqrt()
        branches.append(distance - uniform(0.06, 0.14, generator) * (1.2 - 0.6 * along))
    return functools.reduce(torch.minimum, branches)


def _sheet(points: Tensor, generator: Generator) -> Tensor:
    """Compute a curved plate: muscle, scapula, skull cap."""
    x, y, z = points
    bend_x, bend_y, twist = uniforms(3, -0.7, 0.7, generator)
    rim = x.square() / uniform(0.3, 0.7, generator) + y.square() / uniform(0.3, 0.7, generator) - 1
    height = bend_x * x.square() + bend_y * y.square() + twist * x * y
    return torch.maximum((z - height).abs() - uniform(0.06, 0.15, generator), rim)


def _shell(points: Tensor, generator: Generator) -> Tensor:
    """Compute a hollow organ with an opening: ventricle wall, bladder wall, cortex."""
    solid = _ellipsoid(points, generator)
    wall = solid.abs() - uniform(0.15, 0.35, generator)
    return torch.maximum(wall, points[2] - uniform(0.0, 0.6, generator))


def _ring(points: Tensor, generator: Generator) -> Tensor:
    """Compute a torus or a part of one: pelvis, vertebral arch, colon frame."""
    x, y, z = points
    around = (x.square() + y.square()).sqrt() - uniform(0.4, 0.6, generator)
    tube = (around.square() + z.square()).sqrt() - uniform(0.1, 0.22, generator)
    return torch.maximum(tube, y - uniform(0.0, 1.0, generator))


KINDS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "ellipsoid": _ellipsoid,
    "tube": _tube,
    "blob": _blob,
    "sheet": _sheet,
    "bean": _bean,
    "tree": _tree,
    "shell": _shell,
    "ring": _ring,
}
"""Level-set functions by kind. Each takes points (3, X, Y, Z), approximately in [-1, 1], and a
generator, and returns a level (X, Y, Z) that is negative inside.
"""
