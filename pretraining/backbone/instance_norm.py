"""Instance normalization that preserves the memory layout of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class InstanceNorm(nn.InstanceNorm3d):
    """Variant of :class:`torch.nn.InstanceNorm3d` without copies of channels-last volumes.

    State and results are those of PyTorch's class.

    Notes:
        PyTorch folds the batch into the channels, which requires contiguous memory; the next
        convolution must convert to channels-last again. For one scan at a time, batch normalization
        in training mode computes the same, and its kernels support both layouts.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each scan.

        Args:
            x: (B, C, X, Y, Z), any floating dtype, with at least two voxels per channel.

        Returns:
            (B, C, X, Y, Z) in the dtype and the layout of ``x``, each channel with mean 0 and
            variance 1 before scale and shift.
        """
        normalized = [
            functional.batch_norm(scan, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for scan in x.split(1)
        ]
        return normalized[0] if len(normalized) == 1 else torch.cat(normalized)
