"""Features of whole volumes: the network on an image of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pretraining.backbone.unet import UNet


def rescaled(image: Tensor) -> Tensor:
    """Min-max to [0, 1]; a constant image becomes zero."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp_min(torch.finfo(image.dtype).tiny)


@torch.inference_mode()
def whole_volume_features(net: UNet, image: Tensor) -> Tensor:
    """Output features of a volume in one pass.

    Parameters
    ----------
    net : in evaluation mode, on the device of ``image``.
    image : (X, Y, Z) float, any size and range; min-max scaled here.

    Returns
    -------
    (C, X, Y, Z) float32.
    """
    multiple, least = net.config.multiple, net.config.min_side
    sides = [max(least, -(-side // multiple) * multiple) for side in image.shape]
    margins = [side - old for side, old in zip(sides, image.shape, strict=True)]
    padding = [amount for margin in reversed(margins) for amount in (margin // 2, margin - margin // 2)]
    padded = functional.pad(rescaled(image.float())[None, None], padding, mode="replicate")
    features = net(padded)[0].float()
    inside = tuple(slice(margin // 2, margin // 2 + side) for margin, side in zip(margins, image.shape, strict=True))
    return features[(slice(None), *inside)]
