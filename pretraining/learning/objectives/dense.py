"""Objectives with a target in every voxel: denoising (App. B.7) and segmentation of shapes."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.engine.synthesis import Pair
from pretraining.engine.targets import CleanPair, class_count


class Denoising(nn.Module):
    """Removal of texture and artefacts from the Gaussian mixture: one more convolution, L1."""

    terms = ("l1",)
    weights = (1.0,)

    def __init__(self, backbone: UNetConfig) -> None:
        super().__init__()
        self.backbone = UNet(backbone)
        self.head = nn.Conv3d(backbone.out_channels, 1, 1)

    def forward(self, sample: CleanPair, *, generator: Generator) -> Tensor:
        """Return the (1,) float32 loss; draws nothing."""
        restored = self.head(self.backbone(sample.views[:, None]))[:, 0].float()
        return (restored - sample.clean).abs().mean()[None]


class Segmentation(nn.Module):
    """Segmentation of kinds of shapes: one more convolution, Dice and cross-entropy.

    Notes:
        With procedural shapes this is formula-driven pretraining, as in PrimGeoSeg (Tadokoro et
        al., 2023), the strongest method that the paper compares with.
    """

    terms = ("dice", "cross_entropy")
    weights = (1.0, 1.0)

    def __init__(self, backbone: UNetConfig, kinds: int) -> None:
        super().__init__()
        self.backbone = UNet(backbone)
        self.head = nn.Conv3d(backbone.out_channels, class_count(kinds), 1)

    def forward(self, sample: Pair, *, generator: Generator) -> Tensor:
        """Return the (2,) float32 losses; the sample's labels are classes. Draws nothing."""
        logits = self.head(self.backbone(sample.views[:, None])).float()
        truth = sample.labels.long().expand(len(logits), -1, -1, -1)
        return torch.stack([mean_dice_loss(logits, sample.labels), functional.cross_entropy(logits, truth)])


def mean_dice_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute 1 - soft Dice, averaged over the classes that occur.

    Args:
        logits: (B, K, X, Y, Z) scores of the K classes.
        classes: (X, Y, Z) integers, the same for the whole batch.

    Returns:
        () float32.
    """
    probability = logits.softmax(dim=1).transpose(0, 1).flatten(1)
    truth = functional.one_hot(classes.long().flatten().repeat(len(logits)), logits.shape[1]).T.to(probability.dtype)
    overlap, sizes = (probability * truth).sum(dim=1), probability.sum(dim=1) + truth.sum(dim=1)
    occurs = truth.sum(dim=1) > 0
    dice = (2 * overlap / sizes.clamp_min(1e-6))[occurs]
    return 1 - dice.mean()
