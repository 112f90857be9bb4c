"""Multi-positive supervised contrastive loss of the paper's equation 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def supervised_contrastive_loss(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    balanced_denominator: bool = False,
    rarity_weights: bool = False,
) -> Tensor:
    """Attract features that share a label, in either view, and repel all others (eq. 1).

    Args:
        features: (2, n, C), the same n voxels in both views, any length; L2-normalized here.
        labels: (n,) integers, the labels of these voxels.
        temperature: Temperature τ of the paper, > 0, dimensionless.
        balanced_denominator: Average over the features of each label in the denominator instead of
            summing (Zhu et al., Balanced contrastive learning, CVPR 2022), so that large structures
            do not outweigh small ones.
        rarity_weights: Weight anchors inversely to the number of voxels drawn of their label,
            instead of equally.

    Returns:
        () float32, mean over the 2n anchors.

    Notes:
        An anchor is compared with the other 2n - 1 features: the denominator includes its
        positives, but not the anchor. Every anchor has a positive: its voxel in the other view.
    """
    pooled = functional.normalize(features.float().flatten(0, 1), dim=1)
    pooled_labels = labels.repeat(2)
    itself = torch.eye(len(pooled), dtype=torch.bool, device=pooled.device)
    same_label = pooled_labels[:, None] == pooled_labels
    positive = same_label & ~itself
    similarity = pooled @ pooled.T / temperature
    candidates = similarity.masked_fill(itself, -torch.inf)
    if balanced_denominator:
        # Number of features of a candidate's label, without the anchor itself.
        label_sizes = same_label.sum(dim=1)
        candidates = candidates - (label_sizes[None, :] - same_label.long()).clamp_min(1).log()
    log_probability = similarity - candidates.logsumexp(dim=1, keepdim=True)
    loss = -(log_probability * positive).sum(dim=1) / positive.sum(dim=1)
    if not rarity_weights:
        return loss.mean()
    weights = same_label.sum(dim=1).float().reciprocal()
    return (loss * weights).sum() / weights.sum()
