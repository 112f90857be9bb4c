"""Compilation of the backbone that leaves parameter names and checkpoints unchanged."""

from __future__ import annotations

import torch

from pretraining.backbone.unet import UNet


def compile_backbone(backbone: UNet) -> None:
    """Compile the methods that compute a network's features, in place.

    The methods are replaced, not the module, so the names of parameters and buffers in checkpoints
    do not change. A copy of the network made afterwards would share the methods of the original;
    copy it first.

    Args:
        backbone: Network whose inputs have one shape, or few. Each new shape is compiled at its
            first use, separately for training and evaluation, which takes minutes.
    """
    for name in ("features", "features_before_output"):
        setattr(backbone, name, torch.compile(getattr(backbone, name), fullgraph=True, dynamic=False))
