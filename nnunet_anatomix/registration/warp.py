"""Displacements: what they mean, how they act, and how ITK writes them.

A displacement ``u`` is a (3, X, Y, Z) tensor on the fixed grid, in voxels, its components along X,
Y and Z. The moved image at voxel ``p`` is the moving image at ``p + u(p)``: displacements pull, as
in ITK. :mod:`pretraining.imaging.grids` states the conventions of axes.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.imaging.grids import index_to_mm
from pretraining.imaging.interpolation import interpolate_at

_LARGE = 64
"""Voxels along the shortest axis."""
_STILL = 1e-3
"""Voxels."""


def identity(shape: torch.Size | tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """(3, *shape): every voxel's own position."""
    return torch.stack(
        torch.meshgrid(*(torch.arange(side, dtype=torch.float32, device=device) for side in shape), indexing="ij")
    )


def warp(volume: Tensor, displacement: Tensor, *, mode: str = "bilinear", beyond: str = "zeros") -> Tensor:
    """(C, X, Y, Z) pulled along a displacement of the same grid."""
    return interpolate_at(
        volume, identity(displacement.shape[1:], displacement.device) + displacement, mode=mode, beyond=beyond
    )


def compose(first: Tensor, then: Tensor) -> Tensor:
    """One displacement that takes ``p`` to ``q = p + first(p)``, and on to ``q + then(q)``."""
    return first + warp(then, first, beyond="border")


def invert(displacement: Tensor, *, iterations: int = 30) -> Tensor:
    """The displacement that undoes another, by fixed-point iteration; exact where nothing folds.

    Args:
        displacement: (3, X, Y, Z), voxels; where it is large, the iteration begins on a grid of
            half the resolution.
        iterations: At most; it ends when a step changes less than a thousandth of a voxel on
            average.
    """
    inverse = -displacement
    if min(displacement.shape[1:]) >= _LARGE:
        halved = invert(functional.avg_pool3d(displacement, 2) / 2, iterations=iterations)
        inverse = (
            2
            * functional.interpolate(halved[None], size=displacement.shape[1:], mode="trilinear", align_corners=False)[
                0
            ]
        )
    for _ in range(iterations):
        before, inverse = inverse, -warp(displacement, inverse, beyond="border")
        if (inverse - before).abs().mean() < _STILL:
            break
    return inverse


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Volume change at every voxel, below 0 where space folds; central differences, (X, Y, Z).

    Args:
        displacement: (3, X, Y, Z), at least 2 voxels along every axis.
    """
    rows = torch.stack(torch.gradient(displacement, dim=(1, 2, 3)))  # d u_i / d x_j at [j, i]
    matrix = rows.movedim((0, 1), (-1, -2)) + torch.eye(3, device=displacement.device)
    (a, b, c), (d, e, f), (g, h, i) = (matrix[..., row, :].unbind(-1) for row in range(3))
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def itk_transform(displacement: Tensor, grid: sitk.Image) -> sitk.DisplacementFieldTransform:
    """The same displacement as ITK's, which takes a point of the fixed scan to one of the moving scan, in millimetres.

    Args:
        displacement: (3, X, Y, Z), voxels of ``grid``.
        grid: Any image on the grid.

    Notes:
        ITK holds such fields in float64; one component is converted at a time, to hold little else.
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
    """Any transform as a displacement on ``grid``, (3, X, Y, Z), voxels."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    vectors = np.einsum("ij,zyxj->ixyz", np.linalg.inv(index_to_mm(grid)), sitk.GetArrayFromImage(field))
    return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
