"""Dilation by a ball."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dilate(masks: Tensor, radius_vox: int) -> Tensor:
    """Dilate by the ball x² + y² + z² <= radius² (scikit-image's ``ball``).

    Args:
        masks: (N, X, Y, Z) bool; what lies outside the volume is not set.
        radius_vox: >= 1.

    Returns:
        (N, X, Y, Z) bool.

    Notes:
        The ball is a bundle of rods along z: one dilation along z per rod length, then a union of
            shifted copies.
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
    """Voxels that a ball dilation of ``mask`` (X, Y, Z) bool adds or an erosion removes: dilate and not erode.

    What lies outside the volume counts neither as inside nor as outside, as in scikit-image.
    """
    near_inside, near_outside = dilate(torch.stack([mask, ~mask]), radius_vox)
    return near_inside & near_outside
