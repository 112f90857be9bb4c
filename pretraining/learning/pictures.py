"""What a network sees in two views of one anatomy: slices of its features side by side (as the paper's Figs. 1 and 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pretraining.imaging.feature_colours import FeatureColours

CHANNELS = 6
"""Feature channels shown."""


def feature_picture(views: Tensor, features: Tensor) -> np.ndarray:
    """Lay slices out in two rows, one per view: the view, features as colours, single channels.

    Args:
        views: (2, X, Y, Z) in [0, 1].
        features: (2, C, X, Y, Z) of the network's output, C >= 3.

    Returns:
        (H, W, 3) float32 in [0, 1]; middle slices of the last axis. Both rows share each channel's
        range and the colours, which are the three principal components of the slice's features:
        what is alike in both rows does not depend on appearance.
    """
    middle = views.shape[-1] // 2
    images = views[..., middle].float().cpu()
    slices = features[..., middle].float().cpu()
    shown = slices[:, :CHANNELS]
    low, high = shown.amin(dim=(0, 2, 3), keepdim=True), shown.amax(dim=(0, 2, 3), keepdim=True)
    channels = (shown - low) / (high - low).clamp_min(1e-12)
    grey = torch.cat([images[:, None], channels], dim=1)[..., None].expand(-1, -1, -1, -1, 3)
    colours = FeatureColours(slices.transpose(0, 1).flatten(1))
    tiles = torch.cat(
        [grey[:, :1], torch.stack([colours(of_view).movedim(0, -1) for of_view in slices])[:, None], grey[:, 1:]], dim=1
    )
    # x to the right, y upwards.
    rows = [torch.cat(list(row.transpose(1, 2).flip(1)), dim=1) for row in tiles]
    return torch.cat(rows, dim=0).numpy()
