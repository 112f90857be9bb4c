"""Translation, rigid and affine registration of descriptors on coarse grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.dissimilarity import Dissimilarity
from nnunet_anatomix.registration.warp import identity
from pretraining.imaging.grids import grid_of_cubes, index_to_mm
from pretraining.imaging.interpolation import interpolate_at

Stage = Literal["none", "rigid", "affine"]
_MIN_OVERLAP = 0.25
"""Minimum share of the smaller scan that overlaps the other one."""
NO_OVERLAP = -1.0
"""Agreement of scans that overlap by less."""


@dataclass(frozen=True, kw_only=True)
class DescribedScan:
    """Descriptors of a scan on a coarse grid.

    Attributes:
        descriptors: (C, X, Y, Z).
        known: (X, Y, Z) in [0, 1], share of each voxel that is known.
        grid: Image on that grid; both grids of an alignment have equal directions and spacings.
    """

    descriptors: Tensor
    known: Tensor
    grid: sitk.Image


class Descent(NamedTuple):
    """Steps of a descent."""

    iterations: int
    """Number of steps."""
    rate: float
    """Movement of a corner of the scan in the first steps, voxels."""


def matching_translation(fixed: DescribedScan, moving: DescribedScan) -> sitk.AffineTransform:
    """Find the translation by whole voxels under which the descriptors agree best.

    Args:
        fixed: Descriptors of the fixed scan.
        moving: Descriptors of the moving scan.

    Returns:
        Transform from points of the fixed scan to points of the moving scan.

    Notes:
        Computes :func:`agreement` for all translations at once by Fourier transforms, except that
        channels are centred over the whole scan.
    """
    shape = [a + b - 1 for a, b in zip(fixed.known.shape, moving.known.shape, strict=True)]

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        """Sum a(p) · b(p + t) over voxels p, at t modulo the padded shape."""
        spectrum = torch.fft.rfftn(a, s=shape).conj() * torch.fft.rfftn(b, s=shape)
        return torch.fft.irfftn(spectrum, s=shape)

    known_fixed, known_moving = fixed.known, moving.known
    fixed_values, moving_values = (_center_channels(scan.descriptors, scan.known) for scan in (fixed, moving))
    product = torch.zeros(shape, device=known_fixed.device)
    for fixed_channel, moving_channel in zip(fixed_values, moving_values, strict=True):
        product += correlate(fixed_channel * known_fixed, moving_channel * known_moving)
    energies = correlate(fixed_values.square().sum(0) * known_fixed, known_moving) * correlate(
        known_fixed, moving_values.square().sum(0) * known_moving
    )
    score = _score(product, energies, correlate(known_fixed, known_moving), known_fixed, known_moving)
    best = np.array(np.unravel_index(int(score.argmax()), shape))
    # Indices beyond the moving grid's far end are negative translations.
    best = np.where(best >= np.array(moving.known.shape), best - np.array(shape), best)
    start = np.array(moving.grid.GetOrigin()) - np.array(fixed.grid.GetOrigin()) + index_to_mm(moving.grid) @ best
    return _affine_transform(np.eye(3), start, np.zeros(3))


def agreement(fixed: DescribedScan, moving: DescribedScan, transform: sitk.Transform) -> float:
    """Compute the correlation of the descriptors where the scans overlap.

    Args:
        fixed: Descriptors of the fixed scan.
        moving: Descriptors of the moving scan.
        transform: Linear transform from points of the fixed scan to points of the moving scan.

    Returns:
        Correlation times the fourth root of the overlap, at most 1; or :data:`NO_OVERLAP`.

    Notes:
        Every channel is centred in each scan: MIND-SSC is positive, and the common offset would
        dominate the correlation.
    """
    position = _moving_positions(fixed, *_matrix_in_voxels(fixed, moving, transform))
    moved = interpolate_at(moving.descriptors, position, beyond="border")
    overlap = fixed.known * interpolate_at(moving.known[None], position)[0]
    fixed_values, moving_values = _center_channels(fixed.descriptors, overlap), _center_channels(moved, overlap)
    product = (fixed_values * moving_values).sum(0).mul(overlap).sum()
    energies = fixed_values.square().sum(0).mul(overlap).sum() * moving_values.square().sum(0).mul(overlap).sum()
    return _score(product, energies, overlap.sum(), fixed.known, moving.known).item()


@torch.no_grad()
def optimize(
    fixed: DescribedScan, moving: DescribedScan, start: sitk.Transform, descent: Descent, *, affine: bool
) -> sitk.AffineTransform:
    """Minimize the squared difference of the descriptors over linear transforms.

    Args:
        fixed: Descriptors of the fixed scan.
        moving: Descriptors of the moving scan.
        start: Linear transform to start from.
        descent: Number and size of the steps.
        affine: Optimize scales and shears as well as rotation and translation.

    Returns:
        Transform from points of the fixed scan to points of the moving scan.
    """
    matrix, shift = _descend(fixed, moving, *_matrix_in_voxels(fixed, moving, start), descent, affine=affine)
    return _transform_in_mm(fixed, moving, matrix, shift)


def halve(scan: DescribedScan) -> DescribedScan:
    """Average over cubes of two voxels; short axes are extended by repetition to one cube."""
    margins = [amount for side in reversed(scan.known.shape) for amount in (0, max(0, 2 - side))]
    return DescribedScan(
        descriptors=functional.avg_pool3d(functional.pad(scan.descriptors, margins, mode="replicate"), 2),
        known=functional.avg_pool3d(functional.pad(scan.known[None], margins), 2)[0],
        grid=grid_of_cubes(scan.grid, 2, whole_only=min(scan.known.shape) >= 2),
    )


def greatest_distance(fixed: DescribedScan, moving: DescribedScan, one: sitk.Transform, other: sitk.Transform) -> float:
    """Compute how far apart two linear transforms move a corner of the fixed scan, voxels."""
    corners = torch.cartesian_prod(*(torch.tensor([0.0, side - 1.0]) for side in fixed.known.shape))
    ends = [
        corners @ matrix.T + shift
        for matrix, shift in (_matrix_in_voxels(fixed, moving, transform) for transform in (one, other))
    ]
    return (ends[0] - ends[1]).norm(dim=1).max().item()


def _descend(
    fixed: DescribedScan,
    moving: DescribedScan,
    matrix: Tensor,
    shift: Tensor,
    descent: Descent,
    *,
    affine: bool,
) -> tuple[Tensor, Tensor]:
    """Optimize a matrix (3, 3) and a shift (3,), voxels, with Adam."""
    dissimilarity = Dissimilarity(fixed.descriptors, moving.descriptors, fixed.known, moving.known)
    sides = torch.tensor(fixed.known.shape, dtype=torch.float32)
    centre, radius = (sides - 1) / 2, sides.norm() / 2
    points = identity(fixed.known.shape).view(3, -1) - centre[:, None]
    # Parameters act about the fixed scan's centre; one unit of each moves a corner by a voxel.
    middle = matrix @ centre + shift
    rotation, stretch, translation = (torch.zeros(size, requires_grad=True) for size in (3, (3, 3), 3))
    optimizer = torch.optim.Adam([rotation, translation, *([stretch] if affine else [])], lr=descent.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, descent.iterations)
    for _ in range(descent.iterations):
        optimizer.zero_grad()
        with torch.enable_grad():
            linear = torch.linalg.matrix_exp(_skew(rotation / radius)) @ (torch.eye(3) + stretch / radius) @ matrix
            moved = middle + translation
        position = (linear.detach() @ points + moved.detach()[:, None]).view(3, *fixed.known.shape)
        _, gradient = dissimilarity.gradient(position.to(fixed.known.device))
        gradient = gradient.cpu().view(3, -1)
        torch.autograd.backward((linear, moved), (gradient @ points.T, gradient.sum(1)))
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        linear = torch.linalg.matrix_exp(_skew(rotation / radius)) @ (torch.eye(3) + stretch / radius) @ matrix
        return linear, middle + translation - linear @ centre


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector
    zero = torch.zeros(())
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)


def _score(product: Tensor, energies: Tensor, overlap: Tensor, known_fixed: Tensor, known_moving: Tensor) -> Tensor:
    share = (overlap / torch.minimum(known_fixed.sum(), known_moving.sum())).clamp(0, 1)
    correlation = product / energies.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return torch.where(share >= _MIN_OVERLAP, correlation * share**0.25, NO_OVERLAP)


def _center_channels(descriptors: Tensor, weight: Tensor) -> Tensor:
    mean = (descriptors * weight).sum((1, 2, 3)) / weight.sum().clamp_min(1)
    return descriptors - mean.view(-1, 1, 1, 1)


def _moving_positions(fixed: DescribedScan, matrix: Tensor, shift: Tensor) -> Tensor:
    """Map all voxels of the fixed grid to the moving grid, (3, X, Y, Z), voxels."""
    points = identity(fixed.known.shape).view(3, -1)
    return (matrix @ points + shift[:, None]).view(3, *fixed.known.shape).to(fixed.known.device)


def _matrix_in_voxels(fixed: DescribedScan, moving: DescribedScan, transform: sitk.Transform) -> tuple[Tensor, Tensor]:
    """Return the matrix (3, 3) and shift (3,) from fixed voxels to moving voxels."""
    corners = np.vstack([np.zeros(3), np.eye(3)])
    to_mm, origin = index_to_mm(fixed.grid), np.array(fixed.grid.GetOrigin())
    points = np.array([transform.TransformPoint((to_mm @ corner + origin).tolist()) for corner in corners])
    voxels = (points - moving.grid.GetOrigin()) @ np.linalg.inv(index_to_mm(moving.grid)).T
    return torch.tensor((voxels[1:] - voxels[0]).T, dtype=torch.float32), torch.tensor(voxels[0], dtype=torch.float32)


def _transform_in_mm(
    fixed: DescribedScan, moving: DescribedScan, matrix: Tensor, shift: Tensor
) -> sitk.AffineTransform:
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
