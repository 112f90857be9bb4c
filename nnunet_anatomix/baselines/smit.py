"""Swin transformer of SMIT in MONAI's Swin UNETR."""

from __future__ import annotations

import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch import Tensor

_NEIGHBOURS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))
"""Order in which SMIT merges eight tokens; MONAI's two orders differ."""


class _Merging(PatchMergingV2):
    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(torch.cat([x[:, i::2, j::2, k::2] for i, j, k in _NEIGHBOURS], -1)))


class SMIT(SwinUNETR):
    """Swin UNETR with SMIT's transformer: its depths, heads, windows and order of merging.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        feature_size: Channels of the finest stage; the published weights have 48.

    Notes:
        SMIT publishes only the transformer. Its own decoder takes the stages' outputs before
        merging, MONAI's those after; both are trained from random values.

    References:
        Jiang et al., SMIT, MICCAI 2022, arXiv:2205.10342; the sizes and the order of merging are
        those of ``models/Trans.py`` of The-Veeraraghavan-Lab/SMIT, commit 7e8e54d.
    """

    def __init__(self, in_channels: int, out_channels: int, feature_size: int = 48) -> None:
        super().__init__(
            in_channels,
            out_channels,
            depths=(2, 2, 4, 2),
            num_heads=(4, 4, 4, 4),
            window_size=4,
            qkv_bias=False,
            patch_norm=True,
            feature_size=feature_size,
            downsample=_Merging,  # type: ignore[arg-type]  # a class, in spite of MONAI's annotation
        )
