"""Displacement fields: warping, composition, inversion, and conversion from and to ITK.

A displacement ``u`` is a (3, X, Y, Z) tensor on the fixed grid, in voxels, with components along X,
Y and Z. The moved image at voxel ``p`` is the moving image at ``p + u(p)``, as in ITK.
:mod:`pretraining.imaging.grids` states the conventions of axes.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.imaging.grids import index_to_mm
from pretraining.imaging.interpolation import interpolate_at

_COARSE_TO_FINE_SIDE = 64
"""Shortest side from which on inversion starts at half the resolution, voxels."""
_TOLERANCE = 1e-3
"""Mean change of an iteration below which inversion stops, voxels."""


def identity(shape: torch.Size | tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return the ``(3, *shape)`` positions of all voxels, in voxels."""
    return torch.stack(
        torch.meshgrid(*(torch.arange(side, dtype=torch.float32, device=device) for side in shape), indexing="ij")
    )


def warp(volume: Tensor, displacement: Tensor, *, mode: str = "bilinear", beyond: str = "zeros") -> Tensor:
    """Warp a (C, X, Y, Z) volume by a displacement on the same grid."""
    return interpolate_at(
        volume, identity(displacement.shape[1:], displacement.device) + displacement, mode=mode, beyond=beyond
    )


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Compose two displacements: ``p`` goes to ``q = p + first(p)``, then to ``q + then(q)``."""
    return first + warp(then, first, beyond="border")


def invert(displacement: Tensor, *, iterations: int = 30) -> Tensor:
    """Invert a displacement by fixed-point iteration; exact where it does not fold.

    Args:
        displacement: (3, X, Y, Z), voxels. On large grids the iteration starts at half the
            resolution.
        iterations: Maximum number of iterations; it stops earlier if the mean change is below
            0.001 voxels.

    Returns:
        (3, X, Y, Z), voxels.
    """
    inverse = -displacement
    if min(displacement.shape[1:]) >= _COARSE_TO_FINE_SIDE:
        halved = invert(functional.avg_pool3d(displacement, 2) / 2, iterations=iterations)
        inverse = (
            2
            * functional.interpolate(halved[None], size=displacement.shape[1:], mode="trilinear", align_corners=False)[
                0
            ]
        )
    for _ in range(iterations):
        before, inverse = inverse, -warp(displacement, inverse, beyond="border")
        if (inverse - before).abs().mean() < _TOLERANCE:
            break
    return inverse


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Compute the Jacobian determinant at every voxel, by central differences.

    Args:
        displacement: (3, X, Y, Z), voxels, at least 2 voxels along every axis.

    Returns:
        (X, Y, Z), dimensionless; negative where the displacement folds.
    """
    rows = torch.stack(torch.gradient(displacement, dim=(1, 2, 3)))  # d u_i / d x_j at [j, i]
    matrix = rows.movedim((0, 1), (-1, -2)) + torch.eye(3, device=displacement.device)
    (a, b, c), (d, e, f), (g, h, i) = (matrix[..., row, :].unbind(-1) for row in range(3))
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def itk_transform(displacement: Tensor, grid: sitk.Image) -> sitk.DisplacementFieldTransform:
    """Convert a displacement to an ITK transform from fixed to moving points, mm.

    Args:
        displacement: (3, X, Y, Z), voxels of ``grid``.
        grid: Image on the grid.

    Returns:
        The transform.

    Notes:
        ITK holds such fields in float64; one component is converted at a time to save memory.
    """
    voxels = displacement.detach().cpu().numpy()
    vectors = np.empty((*voxels.shape[:0:-1], 3))
    for component, row in enumerate(index_to_mm(grid)):
        vectors[..., component] = np.einsum("j,jxyz->zyx", row, voxels)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    del vectors
    field.CopyInformation(grid)
    return sitk.DisplacementFieldTransform(field)


def displacement_of(transform: sitk.Transform, grid: sitk.Image) -> Tensor:
    """Sample a transform as a (3, X, Y, Z) displacement on ``grid``, in voxels."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    vectors = np.einsum("ij,zyxj->ixyz", np.linalg.inv(index_to_mm(grid)), sitk.GetArrayFromImage(field))
    return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
