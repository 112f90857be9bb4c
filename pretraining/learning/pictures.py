"""Pictures of a network's features in two views of one anatomy (as the paper's Figs. 1 and 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pretraining.backbone.unet import UNet
from pretraining.imaging.feature_colours import FeatureColours

CHANNELS = 6
"""Number of feature channels shown."""


@torch.no_grad()
def render_features(backbone: UNet, views: Tensor) -> np.ndarray:
    """Compute features in evaluation mode and draw them, see :func:`feature_picture`.

    Args:
        backbone: Network; left in training mode.
        views: (2, X, Y, Z) in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    backbone.eval()
    features = backbone(views[:, None]).float()
    backbone.train()
    return feature_picture(views, features)


def feature_picture(views: Tensor, features: Tensor) -> np.ndarray:
    """Lay out slices in two rows, one per view: the view, features as colours, single channels.

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
    single = slices[:, :CHANNELS]
    low, high = single.amin(dim=(0, 2, 3), keepdim=True), single.amax(dim=(0, 2, 3), keepdim=True)
    channels = (single - low) / (high - low).clamp_min(1e-12)
    grey = torch.cat([images[:, None], channels], dim=1)[..., None].expand(-1, -1, -1, -1, 3)
    colours = FeatureColours(slices.transpose(0, 1).flatten(1))
    coloured = torch.stack([colours(view).movedim(0, -1) for view in slices])[:, None]
    tiles = torch.cat([grey[:, :1], coloured, grey[:, 1:]], dim=1)
    # x to the right, y upwards.
    rows = [torch.cat(list(row.transpose(1, 2).flip(1)), dim=1) for row in tiles]
    return torch.cat(rows, dim=0).numpy()
