"""The backbone with a segmentation head, as nnU-Net builds and runs it (Sec. 4.2, App. B.5)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_anatomix.finetuning.precision import reduced_precision
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.config import from_dict
from pretraining.errors import InputError


def rescaled(x: Tensor) -> Tensor:
    """Min-max every channel of every patch to [0, 1]; a constant channel becomes 0.

    Parameters
    ----------
    x : (B, C, X, Y, Z), any intensity unit: z-scores of a stock plan, [0, 1] of ours.

    Returns
    -------
    (B, C, X, Y, Z), the range that the backbone was pretrained on.
    """
    low, high = x.amin((2, 3, 4), keepdim=True), x.amax((2, 3, 4), keepdim=True)
    spread = high - low
    return (x - low) / torch.where(spread > 0, spread, 1)


def margins(shape: Sequence[int], multiple: int, min_side: int) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis, so that it is a multiple of ``multiple`` and at least ``min_side``."""
    missing = [max(min_side, -(-side // multiple) * multiple) - side for side in shape]
    return [(total // 2, total - total // 2) for total in missing]


class AnatomixNetwork(nn.Module):
    """Backbone and one 1×1×1 convolution to classes; takes patches of any size and any intensity scale.

    A plan names this class in ``network_class_name``, so that stock trainers and stock prediction find it too.

    Parameters
    ----------
    input_channels : image channels.
    num_classes : segmentation heads.
    deep_supervision : must be false.
    backbone : fields of :class:`~pretraining.backbone.unet.UNetConfig` but ``in_channels``; left out, the paper's Table 7.

    Raises
    ------
    InputError
        For an unknown backbone field or deep supervision.
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False, **backbone: Any) -> None:
        super().__init__()
        if deep_supervision:
            raise InputError("AnatomixNetwork has no deep supervision; train with -tr AnatomixTrainer or nnUNetTrainerNoDeepSupervision")
        config = from_dict(UNetConfig, {**backbone, "in_channels": input_channels})
        self.backbone = UNet(config)
        self.head = nn.Conv3d(config.out_channels, num_classes, 1)
        # nnU-Net switches deep supervision here, whatever the network.
        self.decoder = SimpleNamespace(deep_supervision=False)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        x : (B, C, X, Y, Z), any size of at least one voxel an axis.

        Returns
        -------
        (B, num_classes, X, Y, Z), float32 unless the caller opened autocast.
        """
        if x.ndim != 5:
            raise InputError(f"AnatomixNetwork is 3D: expected (B, C, X, Y, Z), found {tuple(x.shape)}; use the configuration 3d_fullres")
        config = self.backbone.config
        added = margins(x.shape[2:], config.multiple, config.min_side)
        with reduced_precision(x.device):
            features = self.backbone(_padded(rescaled(x), added).contiguous(memory_format=torch.channels_last_3d))
        inner = tuple(slice(before, before + side) for (before, _), side in zip(added, x.shape[2:], strict=True))
        # The head is cheap; outside of our autocast its logits keep float32's resolution.
        return self.head(features[(..., *inner)].to(x.dtype))


def _padded(x: Tensor, added: Sequence[tuple[int, int]]) -> Tensor:
    """Reflect into the margins, as the backbone's own convolutions do; repeat the border where an axis is too short for that."""
    if not any(map(any, added)):
        return x
    fits = all(after < side for (_, after), side in zip(added, x.shape[2:], strict=True))
    # functional.pad counts axes from the last.
    return functional.pad(x, [side for pair in reversed(added) for side in pair], mode="reflect" if fits else "replicate")
