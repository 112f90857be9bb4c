"""The backbone's forward pass written plainly with PyTorch's own operations.

These are padding, upsampling and concatenation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.unet import UNet


def plain_features(net: UNet, x: Tensor) -> dict[str, Tensor]:
    """What ``net.features`` returns for all taps."""
    config = net.config
    found: dict[str, Tensor] = {}

    def convolved(tap: str, conv: nn.Conv3d, x: Tensor) -> Tensor:
        mode = "reflect" if config.padding == "reflect" else "constant"
        found[tap] = functional.conv3d(functional.pad(x, (1,) * 6, mode=mode), conv.weight, conv.bias)
        return found[tap]

    def stage(name: str, blocks: nn.Sequential, x: Tensor) -> Tensor:
        for position, block in enumerate(blocks):
            x = functional.relu(block.norm(convolved(f"{name}.{position}", block.conv, x)))
        return x

    pool = functional.avg_pool3d if config.pooling == "average" else functional.max_pool3d
    x = functional.relu(net.stem.norm(convolved("stem", net.stem.conv, x)))
    skips = []
    for level, blocks in enumerate(net.encoder):
        x = stage(f"encoder.{level}", blocks, pool(x, 2) if level else x)
        skips.append(x)
    x = stage("bottleneck", net.bottleneck, pool(x, 2))
    for level in reversed(range(config.poolings)):
        x = functional.interpolate(x, scale_factor=2, mode=config.upsampling)
        x = stage(f"decoder.{level}", net.decoder[level], torch.cat((skips[level], x), dim=1))
    convolved("output", net.output, x)
    return found
