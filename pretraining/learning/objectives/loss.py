"""The multi-positive supervised contrastive loss of the paper's equation 1."""

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
    """Draw together what shares a label in either view, push apart the rest (eq. 1).

    Args:
        features: (2, n, C), the same n voxels in both views, any length; L2-normalized here.
        labels: (n,) integers, the labels of these voxels.
        temperature: The paper's τ, > 0, dimensionless.
        balanced_denominator: Count every label once in the denominator, by the mean over its
            features in place of their sum (Zhu et al., Balanced contrastive learning, CVPR 2022),
            so that large structures do not outweigh small ones.
        rarity_weights: Weight anchors inversely to how often their label was drawn, in place of
            alike.

    Returns:
        () float32, the mean over the 2n anchors.

    Notes:
        An anchor is compared with all other 2n - 1 features: its positives stay in the denominator,
        itself does not. Every anchor has a positive, its own voxel in the other view.
    """
    pooled = functional.normalize(features.float().flatten(0, 1), dim=1)
    pooled_labels = labels.repeat(2)
    itself = torch.eye(len(pooled), dtype=torch.bool, device=pooled.device)
    same_label = pooled_labels[:, None] == pooled_labels
    positive = same_label & ~itself
    similarity = pooled @ pooled.T / temperature
    candidates = similarity.masked_fill(itself, -torch.inf)
    if balanced_denominator:
        # How many of a candidate's label the anchor is compared with: itself is none of them.
        of_label = same_label.sum(dim=1)
        candidates = candidates - (of_label[None, :] - same_label.long()).clamp_min(1).log()
    log_probability = similarity - candidates.logsumexp(dim=1, keepdim=True)
    loss = -(log_probability * positive).sum(dim=1) / positive.sum(dim=1)
    if not rarity_weights:
        return loss.mean()
    weights = same_label.sum(dim=1).float().reciprocal()
    return (loss * weights).sum() / weights.sum()
