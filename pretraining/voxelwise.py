"""Features of which only the direction counts, voxel by voxel."""

from __future__ import annotations

from torch import Tensor


def voxelwise_normalized(features: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide every voxel's features by their root mean square.

    Parameters
    ----------
    features : (..., C, X, Y, Z).
    eps : least root mean square.

    Returns
    -------
    (..., C, X, Y, Z), vectors of length √C.

    Notes
    -----
    Only the direction is left, which is all that the contrastive loss compares. Length √C instead of 1 keeps single features near 1,
    where a head that starts at random wants them.
    """
    return features / features.square().mean(-4, keepdim=True).clamp(min=eps**2).sqrt()
