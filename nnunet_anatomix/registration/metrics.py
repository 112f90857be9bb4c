"""Metrics of a registration: landmark error, folding and inverse consistency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.warp import compose, identity, jacobian_determinant
from pretraining.common.errors import InputError

_SLAB = 16
"""Number of planes along X whose Jacobians are in memory at once."""


def tre_mm(fixed_points_mm: np.ndarray, moving_points_mm: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Compute the target registration error: distance of transformed fixed to moving landmarks.

    Args:
        fixed_points_mm: (N, 3) landmarks of the fixed scan, ITK's physical points (LPS).
        moving_points_mm: (N, 3) the same landmarks in the moving scan, LPS.
        transform: Transform from points of the fixed scan to points of the moving scan.

    Returns:
        (N,), mm.

    Raises:
        InputError: If the numbers of fixed and moving landmarks differ.
    """
    if fixed_points_mm.shape != moving_points_mm.shape:
        found = f"{len(fixed_points_mm)} in the fixed and {len(moving_points_mm)} in the moving scan"
        raise InputError(
            f"landmarks: expected equal numbers, found {found}; list the same points in the same order for both"
        )
    reached = [transform.TransformPoint([float(x) for x in point]) for point in fixed_points_mm]
    return np.linalg.norm(np.reshape(reached, (-1, 3)) - moving_points_mm, axis=1)


def folded_share(displacement: Tensor, mask: Tensor | None = None) -> float:
    """Compute the share of voxels where space folds: a Jacobian determinant below 0.

    Args:
        displacement: (3, X, Y, Z), voxels.
        mask: (X, Y, Z) bool, True for voxels that count. Default: all.

    Returns:
        Share in [0, 1]; NaN for an empty mask.
    """
    folded = counted = 0
    for start, determinant in determinants(displacement):
        inside = (
            torch.ones_like(determinant, dtype=torch.bool)
            if mask is None
            else mask[start : start + len(determinant)].bool()
        )
        folded += int((determinant[inside] < 0).sum())
        counted += int(inside.sum())
    return folded / counted if counted else float("nan")


def sd_log_jacobian(displacement: Tensor, mask: Tensor | None = None) -> float:
    """Compute the standard deviation of the logarithm of the Jacobian determinant.

    Args:
        displacement: (3, X, Y, Z), voxels.
        mask: (X, Y, Z) bool, True for voxels that count. Default: all. Voxels where space folds,
            which have no logarithm, never count.

    Returns:
        Standard deviation, dimensionless; 0 where all volumes change by one factor, NaN if no voxel
        counts.
    """
    count, total, squares = 0, 0.0, 0.0
    for start, determinant in determinants(displacement):
        counts = determinant > 0
        if mask is not None:
            counts &= mask[start : start + len(determinant)].bool()
        logarithms = determinant[counts].double().log()
        count += len(logarithms)
        total += logarithms.sum().item()
        squares += logarithms.square().sum().item()
    return max(squares / count - (total / count) ** 2, 0.0) ** 0.5 if count else float("nan")


def determinants(displacement: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Compute the Jacobian determinants slab by slab along X, to save memory.

    Args:
        displacement: (3, X, Y, Z), voxels.

    Yields:
        The first plane of a slab, and its (x, Y, Z) determinants, those of the whole volume.
    """
    # One more plane on either side makes them equal to those of the whole volume.
    side = displacement.shape[1]
    for start in range(0, side, _SLAB):
        stop, first = min(start + _SLAB, side), max(start - 1, 0)
        yield start, jacobian_determinant(displacement[:, first : stop + 1])[start - first : stop - first]


def inverse_error_mm(
    forward: Tensor, inverse: Tensor, spacing_mm: Sequence[float], mask: Tensor | None = None
) -> tuple[float, float]:
    """Compute the inverse consistency error, ``|forward(p) + inverse(p + forward(p))|``.

    Args:
        forward: (3, X, Y, Z) displacement, voxels.
        inverse: (3, X, Y, Z) its inverse, voxels of the same grid.
        spacing_mm: Spacing of the grid along X, Y and Z.
        mask: (X, Y, Z) bool, True for voxels that count. Default: all. Voxels that ``forward``
            maps off the grid never count.

    Returns:
        Mean and 95th percentile, mm; NaN if no voxel counts.
    """
    spacing = torch.tensor(spacing_mm, dtype=forward.dtype, device=forward.device)
    error = torch.linalg.vector_norm(compose(forward, inverse) * spacing.view(3, 1, 1, 1), dim=0)
    reached = identity(forward.shape[1:], forward.device) + forward
    last = torch.tensor(forward.shape[1:], device=forward.device).view(3, 1, 1, 1) - 1
    counts = ((reached >= 0) & (reached <= last)).all(dim=0)
    if mask is not None:
        counts &= mask.bool()
    errors = error[counts].cpu().numpy()
    return (float(errors.mean()), float(np.percentile(errors, 95))) if len(errors) else (float("nan"), float("nan"))
