"""Interpolation of volumes at arbitrary positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def interpolate_at(
    volume: Tensor, position: Tensor | Sequence[Tensor], *, mode: str = "bilinear", beyond: str = "zeros"
) -> Tensor:
    """Interpolate a volume at positions in voxels.

    Args:
        volume: (C, X, Y, Z).
        position: (3, x, y, z) voxels of ``volume``, or one (x, y, z) tensor per axis.
        mode: ``bilinear`` (trilinear here) or ``nearest``.
        beyond: Values outside the volume: ``zeros``, or ``border`` for the nearest border voxel.

    Returns:
        (C, x, y, z).

    Notes:
        Some modules interpolate in other ways. On a CPU, :mod:`pretraining.engine.resample` and
        :mod:`pretraining.engine.smshapes` have compiled loops, which are faster and determine the
        exact bits of the samples of a seed;
        :mod:`nnunet_anatomix.registration.solvers.dissimilarity` has one that computes the
        derivative in the same pass.
        :func:`nnunet_anatomix.finetuning.augmentation.affine.warp_affine` and the demo's anatomy
        use positions in half sides from the centre; positions in voxels would round differently.
    """
    # grid_sample orders axes from the last, and the outermost voxels' centres are at -1 and 1.
    scaled = [
        coordinate * (2 / max(side - 1, 1)) - 1 for coordinate, side in zip(position, volume.shape[1:], strict=True)
    ]
    grid = torch.stack(scaled[::-1], dim=-1)
    # PyTorch's CPU code parallelizes over the volumes of a batch, but not within a volume.
    parts = torch.get_num_threads() if volume.device.type == "cpu" and len(grid) % torch.get_num_threads() == 0 else 1
    grid = grid.view(parts, -1, *grid.shape[1:])
    values = functional.grid_sample(
        volume.expand(parts, *volume.shape), grid, mode=mode, padding_mode=beyond, align_corners=True
    )
    return values.movedim(0, 1).flatten(1, 2)
