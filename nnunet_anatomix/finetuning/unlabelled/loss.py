"""Loss of nnU-Net in which voxels count by the confidence of their labels."""

from __future__ import annotations

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from torch import Tensor, nn
from torch.nn import functional


class ConfidenceLoss(nn.Module):
    """Soft Dice and cross-entropy, weighted by voxel.

    With weights of 0 and 1 it is nnU-Net's loss with an ignore label at the zeros.

    Args:
        loss: Loss of nnU-Net, whose Dice and settings are used.
    """

    def __init__(self, loss: DC_and_CE_loss | DC_and_BCE_loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, C, X, Y, Z).
            target: (B, K, X, Y, Z) integers, channels as nnU-Net's loss takes them, then the
                confidence in per cent. Without that channel, it is nnU-Net's own loss.
        """
        has_regions = isinstance(self.loss, DC_and_BCE_loss)
        if target.shape[1] == (logits.shape[1] + self.loss.use_ignore_label if has_regions else 1):
            return self.loss(logits, target)
        labels, weights = target[:, :-1], target[:, -1:].float() / 100
        if has_regions:
            if self.loss.use_ignore_label:
                weights = weights * (1 - labels[:, -1:])
                labels = labels[:, :-1]
            entropy = functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            # nnU-Net adds up the regions where there is an ignore label, else averages them.
            weight_of_all = weights.sum() * (1 if self.loss.use_ignore_label else labels.shape[1])
        else:
            if self.loss.ignore_label is not None:
                weights = weights * (labels != self.loss.ignore_label)
                labels = torch.where(labels == self.loss.ignore_label, 0, labels)
            entropy = functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")[:, None]
            weight_of_all = weights.sum()
        dice = self.loss.dc(logits, labels, loss_mask=weights)
        mean_entropy = (entropy * weights).sum() / weight_of_all.clamp_min(1e-8)
        return self.loss.weight_ce * mean_entropy + self.loss.weight_dice * dice
