"""Removal of folds from a displacement."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.solvers.convex import pad
from nnunet_anatomix.registration.solvers.refine import smooth
from nnunet_anatomix.registration.warp import jacobian_determinant

_MOST_PASSES = 20
_REACH = 2
"""Distance from a fold within which the displacement is smoothed, voxels."""


@torch.no_grad()
def unfold(displacement: Tensor) -> Tensor:
    """Smooth a displacement where it folds, until it folds nowhere.

    Args:
        displacement: (3, X, Y, Z), voxels of its grid.

    Returns:
        (3, X, Y, Z). Voxels away from folds are unchanged. A displacement that still folds after
        20 passes is returned as it is then.

    Notes:
        A fold is a Jacobian determinant of at most 0, by central differences, as
        :func:`~nnunet_anatomix.registration.metrics.folded_share` counts it.
    """
    if min(displacement.shape[1:]) < 2:
        return displacement
    for _ in range(_MOST_PASSES):
        folded = jacobian_determinant(displacement) <= 0
        if not folded.any():
            break
        near = functional.max_pool3d(folded[None].float(), 2 * _REACH + 1, stride=1, padding=_REACH)
        share = functional.avg_pool3d(pad(near, 1, "border"), 3, stride=1)
        displacement = torch.lerp(displacement, smooth(displacement), share)
    return displacement
