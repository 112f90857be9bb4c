"""Rigid and affine alignment of descriptors: where two scans agree best, without bending either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.warp import identity
from pretraining.imaging.grids import index_to_mm
from pretraining.imaging.interpolation import interpolate_at

Stage = Literal["none", "rigid", "affine"]
_ITERATIONS = 40
"""Of each descent."""
_RATE = 0.5
"""Voxels that a corner of the scan moves in the first steps."""
_LEAST_OVERLAP = 0.25
"""Share of the smaller scan that must lie on the other one."""
APART = -1.0
"""Agreement of scans that overlap by less."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A scan's descriptors on a coarse grid.

    Attributes:
        descriptors: (C, X, Y, Z).
        known: (X, Y, Z) in [0, 1].
        grid: An image on that grid; all grids of one alignment have equal directions and spacings.
    """

    descriptors: Tensor
    known: Tensor
    grid: sitk.Image


def matching_translation(fixed: Described, moving: Described) -> sitk.AffineTransform:
    """The translation by whole voxels under which the descriptors agree best, of all there are.

    Notes:
        Agreement is :func:`agreement`'s, for every translation at once by Fourier transforms; only
        that channels are centred over a whole scan.
    """
    shape = [a + b - 1 for a, b in zip(fixed.known.shape, moving.known.shape, strict=True)]

    def correlation(one: Tensor, other: Tensor) -> Tensor:
        """Sum over voxels p of one(p) · other(p + t), at t modulo the padded shape."""
        spectrum = torch.fft.rfftn(one, s=shape).conj() * torch.fft.rfftn(other, s=shape)
        return torch.fft.irfftn(spectrum, s=shape)

    known_fixed, known_moving = fixed.known, moving.known
    ours, theirs = (_centred(scan.descriptors, scan.known) for scan in (fixed, moving))
    product = torch.zeros(shape, device=known_fixed.device)
    for one, other in zip(ours, theirs, strict=True):
        product += correlation(one * known_fixed, other * known_moving)
    energies = correlation(ours.square().sum(0) * known_fixed, known_moving) * correlation(
        known_fixed, theirs.square().sum(0) * known_moving
    )
    score = _scored(product, energies, correlation(known_fixed, known_moving), known_fixed, known_moving)
    best = np.array(np.unravel_index(int(score.argmax()), shape))
    # What lies beyond the moving grid's far end is a negative translation.
    best = np.where(best >= np.array(moving.known.shape), best - np.array(shape), best)
    start = np.array(moving.grid.GetOrigin()) - np.array(fixed.grid.GetOrigin()) + index_to_mm(moving.grid) @ best
    return _affine_transform(np.eye(3), start, np.zeros(3))


def agreement(fixed: Described, moving: Described, transform: sitk.Transform) -> float:
    """Correlation of the descriptors where the scans overlap, times the fourth root of the overlap; at most 1, or :data:`APART`.

    Args:
        transform: Linear, takes points of the fixed scan to points of the moving scan.

    Notes:
        Every channel is centred in each scan: MIND-SSC is positive, and what all of it shares would
            hide where scans agree.
    """
    position = _positions(fixed, moving, *_matrix_in_voxels(fixed, moving, transform))
    known = interpolate_at(moving.known[None], position)[0]
    there = interpolate_at(moving.descriptors, position, beyond="border")
    both = fixed.known * known
    ours, theirs = _centred(fixed.descriptors, both), _centred(there, both)
    product = (ours * theirs).sum(0).mul(both).sum()
    energies = ours.square().sum(0).mul(both).sum() * theirs.square().sum(0).mul(both).sum()
    return _scored(product, energies, both.sum(), fixed.known, moving.known).item()


@torch.no_grad()
def optimize_affine(fixed: Described, moving: Described, start: sitk.Transform, stage: Stage) -> sitk.AffineTransform:
    """Descend from a linear transform on the squared difference of the descriptors where the scans overlap.

    Args:
        stage: ``rigid`` turns and shifts; ``affine`` does so first, then scales and shears too.
    """
    matrix, shift = _matrix_in_voxels(fixed, moving, start)
    levels = [(_halved(fixed), _halved(moving)), (fixed, moving)] if min(fixed.known.shape) >= 8 else [(fixed, moving)]
    for bends in (False, True) if stage == "affine" else (False,):
        for ours, theirs in levels:
            scale = fixed.known.shape[0] / ours.known.shape[0]
            scale = 2.0 if scale > 1.5 else 1.0
            # Cubes of two voxels have their centres half a voxel on.
            half = (scale - 1) / 2
            inner = (shift + matrix @ torch.full((3,), half) - half) / scale
            matrix, inner = _descend(ours, theirs, matrix, inner, bends)
            shift = inner * scale - matrix @ torch.full((3,), half) + half
    return _transform_in_mm(fixed, moving, matrix, shift)


def _descend(fixed: Described, moving: Described, matrix: Tensor, shift: Tensor, bends: bool) -> tuple[Tensor, Tensor]:
    dissimilarity = Dissimilarity(fixed.descriptors, moving.descriptors, fixed.known, moving.known)
    sides = torch.tensor(fixed.known.shape, dtype=torch.float32)
    centre, radius = (sides - 1) / 2, sides.norm() / 2
    here = identity(fixed.known.shape).view(3, -1) - centre[:, None]
    # About the fixed scan's centre; turns and bends in units that move a corner by a voxel.
    middle = matrix @ centre + shift
    turn, bend, move = (torch.zeros(size, requires_grad=True) for size in (3, (3, 3), 3))
    optimizer = torch.optim.Adam([turn, move, *([bend] if bends else [])], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _ITERATIONS)
    for _ in range(_ITERATIONS):
        optimizer.zero_grad()
        with torch.enable_grad():
            linear = torch.linalg.matrix_exp(_skew(turn / radius)) @ (torch.eye(3) + bend / radius) @ matrix
            moved = middle + move
        position = (linear.detach() @ here + moved.detach()[:, None]).view(3, *fixed.known.shape)
        _, slope = dissimilarity.gradient(position.to(fixed.known.device))
        slope = slope.cpu().view(3, -1)
        torch.autograd.backward((linear, moved), (slope @ here.T, slope.sum(1)))
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        linear = torch.linalg.matrix_exp(_skew(turn / radius)) @ (torch.eye(3) + bend / radius) @ matrix
        return linear, middle + move - linear @ centre


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector
    zero = torch.zeros(())
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)


def _scored(product: Tensor, energies: Tensor, overlap: Tensor, known_fixed: Tensor, known_moving: Tensor) -> Tensor:
    share = (overlap / torch.minimum(known_fixed.sum(), known_moving.sum())).clamp(0, 1)
    correlation = product / energies.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return torch.where(share >= _LEAST_OVERLAP, correlation * share**0.25, APART)


def _centred(descriptors: Tensor, weight: Tensor) -> Tensor:
    mean = (descriptors * weight).sum((1, 2, 3)) / weight.sum().clamp_min(1)
    return descriptors - mean.view(-1, 1, 1, 1)


def _halved(scan: Described) -> Described:
    return Described(
        descriptors=functional.avg_pool3d(scan.descriptors, 2),
        known=functional.avg_pool3d(scan.known[None], 2)[0],
        grid=scan.grid,
    )


def _positions(fixed: Described, moving: Described, matrix: Tensor, shift: Tensor) -> Tensor:
    here = identity(fixed.known.shape).view(3, -1)
    return (matrix @ here + shift[:, None]).view(3, *fixed.known.shape).to(fixed.known.device)


def _matrix_in_voxels(fixed: Described, moving: Described, transform: sitk.Transform) -> tuple[Tensor, Tensor]:
    """(3, 3) and (3,): from voxels of the fixed grid to voxels of the moving grid."""
    corners = np.vstack([np.zeros(3), np.eye(3)])
    to_mm, origin = index_to_mm(fixed.grid), np.array(fixed.grid.GetOrigin())
    points = np.array([transform.TransformPoint((to_mm @ corner + origin).tolist()) for corner in corners])
    voxels = (points - moving.grid.GetOrigin()) @ np.linalg.inv(index_to_mm(moving.grid)).T
    return torch.tensor((voxels[1:] - voxels[0]).T, dtype=torch.float32), torch.tensor(voxels[0], dtype=torch.float32)


def _transform_in_mm(fixed: Described, moving: Described, matrix: Tensor, shift: Tensor) -> sitk.AffineTransform:
    from_fixed, to_moving = np.linalg.inv(index_to_mm(fixed.grid)), index_to_mm(moving.grid)
    linear = to_moving @ matrix.double().numpy() @ from_fixed
    sides = np.array(fixed.grid.GetSize())
    centre = index_to_mm(fixed.grid) @ ((sides - 1) / 2) + fixed.grid.GetOrigin()
    at_centre = (
        to_moving @ (matrix.double().numpy() @ ((sides - 1) / 2) + shift.double().numpy()) + moving.grid.GetOrigin()
    )
    return _affine_transform(linear, at_centre - centre, centre)


def _affine_transform(linear: np.ndarray, translation: np.ndarray, centre: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(linear.flatten().tolist())
    transform.SetTranslation(translation.tolist())
    transform.SetCenter(centre.tolist())
    return transform
