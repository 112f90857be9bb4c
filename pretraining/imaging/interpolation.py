"""Values of volumes between their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def interpolate_at(
    volume: Tensor, position: Tensor | Sequence[Tensor], *, mode: str = "bilinear", beyond: str = "zeros"
) -> Tensor:
    """Look up values between voxels.

    Args:
        volume: (C, X, Y, Z).
        position: (3, x, y, z) voxels of ``volume``, or one (x, y, z) tensor for each of its axes.
        mode: ``bilinear`` (trilinear here) or ``nearest``.
        beyond: ``zeros``, or ``border`` to go on with the border's values.

    Returns:
        (C, x, y, z).

    Notes:
        Some places look up values in other ways, each for its own reason. On a CPU,
        :mod:`pretraining.engine.resample` and :mod:`pretraining.engine.smshapes` have compiled
        loops, which take less time and give the samples of a seed their bits, and
        :mod:`nnunet_anatomix.registration.solvers.dissimilarity` has one that makes the derivative
        in the same pass. :func:`nnunet_anatomix.finetuning.augmentation.affine.warp_affine` and the
        demo's anatomy count in half sides from the middle, so that positions in voxels would round
        their results differently.
    """
    # grid_sample counts axes from the last, and the outermost voxels' centres lie at -1 and 1.
    scaled = [place * (2 / max(side - 1, 1)) - 1 for place, side in zip(position, volume.shape[1:], strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)
    # PyTorch's CPU code shares volumes of a batch among threads, but not the voxels of one.
    parts = torch.get_num_threads() if volume.device.type == "cpu" and len(grid) % torch.get_num_threads() == 0 else 1
    grid = grid.view(parts, -1, *grid.shape[1:])
    values = functional.grid_sample(
        volume.expand(parts, *volume.shape), grid, mode=mode, padding_mode=beyond, align_corners=True
    )
    return values.movedim(0, 1).flatten(1, 2)
