"""The multi-positive supervised contrastive loss of the paper's equation 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def supervised_contrastive_loss(features: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Draw together what shares a label in either view, push apart the rest (eq. 1).

    Parameters
    ----------
    features : (2, n, C), the same n voxels in both views, any length; L2-normalized here.
    labels : (n,) integers, the labels of these voxels.
    temperature : the paper's τ, > 0, dimensionless.

    Returns
    -------
    () float32, the mean over the 2n anchors.

    Notes
    -----
    An anchor is compared with all other 2n - 1 features: its positives stay in the denominator, itself does not.
    Every anchor has a positive, its own voxel in the other view.
    """
    pooled = functional.normalize(features.float().flatten(0, 1), dim=1)
    pooled_labels = labels.repeat(2)
    itself = torch.eye(len(pooled), dtype=torch.bool, device=pooled.device)
    positive = (pooled_labels[:, None] == pooled_labels) & ~itself
    similarity = pooled @ pooled.T / temperature
    log_denominator = similarity.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_probability = similarity - log_denominator
    return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1)).mean()
