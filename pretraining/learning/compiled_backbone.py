"""The backbone through PyTorch's compiler, without a trace of it in names and checkpoints."""

from __future__ import annotations

import torch

from pretraining.backbone.unet import UNet


def compile_backbone(backbone: UNet) -> None:
    """Compile in place what computes a network's features.

    The methods are replaced, not the module: names of parameters and buffers, and so checkpoints,
    stay as they are. A copy of the network made afterwards would share the methods of the original;
    copy it first.

    Args:
        backbone: Network whose inputs have one shape, or few. Every shape, and each of training and
            evaluation, is compiled when it comes for the first time, which takes minutes.
    """
    for name in ("features", "features_before_output"):
        setattr(backbone, name, torch.compile(getattr(backbone, name), fullgraph=True, dynamic=False))
