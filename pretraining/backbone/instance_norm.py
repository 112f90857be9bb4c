"""Instance normalization that keeps the memory layout of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class InstanceNorm(nn.InstanceNorm3d):
    """:class:`torch.nn.InstanceNorm3d`, with the same state and the same results, in channels-last memory without copies.

    Notes:
        PyTorch folds the batch into the channels, which asks for contiguous memory; the next
        convolution has to put the channels last again. One scan at a time, the batch normalization
        of training is the same arithmetic, and its kernels take both layouts.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each scan.

        Args:
            x: (B, C, X, Y, Z), any floating dtype, with at least two voxels a channel.

        Returns:
            (B, C, X, Y, Z) in the dtype and the layout of ``x``, each channel with mean 0 and
            variance 1 before scale and shift.
        """
        normalized = [
            functional.batch_norm(scan, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for scan in x.split(1)
        ]
        return normalized[0] if len(normalized) == 1 else torch.cat(normalized)
