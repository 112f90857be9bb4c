"""Morphology of binary masks: dilation by a ball, and the shell around a mask's surface."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dilate(masks: Tensor, radius_vox: int) -> Tensor:
    """Dilate by the ball x² + y² + z² <= radius² (scikit-image's ``ball``).

    Args:
        masks: (N, X, Y, Z) bool; not set outside the volume.
        radius_vox: Radius of the ball, voxels, >= 1.

    Returns:
        (N, X, Y, Z) bool.

    Notes:
        The ball is decomposed into rods along z: masks are dilated along z once per rod length, and
        the result is a union of shifted copies.
    """
    x, y, z = masks.shape[1:]
    r = radius_vox
    padded = F.pad(masks.to(torch.uint8), (r,) * 6)
    result = torch.zeros_like(masks, dtype=torch.uint8)
    rods: dict[int, Tensor] = {0: padded[..., r : r + z]}
    for half in range(1, r + 1):
        rods[half] = rods[half - 1] | padded[..., r - half : r - half + z] | padded[..., r + half : r + half + z]
    for dx in range(-r, r + 1):
        for dy in range(-r, r + 1):
            rest = r * r - dx * dx - dy * dy
            if rest >= 0:
                result |= rods[math.isqrt(rest)][:, r + dx : r + dx + x, r + dy : r + dy + y]
    return result.bool()


def shell(mask: Tensor, radius_vox: int) -> Tensor:
    """Compute dilate(mask) and not erode(mask), with a ball.

    Args:
        mask: (X, Y, Z) bool. The border of the volume is not a surface, as in scikit-image.
        radius_vox: Radius of the ball, voxels, >= 1.

    Returns:
        (X, Y, Z) bool.
    """
    near_inside, near_outside = dilate(torch.stack([mask, ~mask]), radius_vox)
    return near_inside & near_outside
