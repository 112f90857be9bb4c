"""3×3×3 convolutions of the backbone, with reduced memory traffic and arithmetic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.neighbourhoods import convolution_at
from pretraining.backbone.padding import pad_by_one
from pretraining.backbone.subpixel import add_upsampled_convolution

Padding = Literal["reflect", "zeros"]
Upsampling = Literal["nearest", "trilinear"]
COARSE_VOXELS = 4096
"""Number of coarse voxels, over the batch, from which the merged kernel is faster; merging has a
fixed cost.
"""


class Conv3x3x3(nn.Conv3d):
    """Convolution that preserves the grid; parameters are named as in :class:`torch.nn.Conv3d`.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        bias: Whether to add a bias.
        padding: Values beyond the border: mirrored or zeros.
    """

    padding_mode: Padding

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool, padding: Padding) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias, padding_mode=padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return functional.conv3d(input, weight, bias, padding=1)
        return functional.conv3d(pad_by_one(input, "reflect"), weight, bias)

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        """Compute the output at selected voxels.

        See :func:`pretraining.backbone.neighbourhoods.convolution_at`.

        Args:
            x: (B, in_channels, X, Y, Z).
            positions: (n,) or (B, n) int64 flat indices into (X, Y, Z).

        Returns:
            (B, n, out_channels).
        """
        return convolution_at(x, positions, self.weight, self.bias, padding=self.padding_mode)


class SkipConv3x3x3(Conv3x3x3):
    """First convolution of a decoder level, applied to the concatenation (skip, upsampled).

    The concatenation is computed only where that is cheaper. Otherwise the output is the sum of two
    convolutions, and that of a volume upsampled by nearest neighbour is computed on the coarse
    grid, see :mod:`pretraining.backbone.subpixel`.

    Args:
        skip_channels: Number of channels of the skip connection, first in the kernel.
        below_channels: Number of channels of the level below.
        out_channels: Number of output channels.
        bias: Whether to add a bias.
        padding: Values beyond the border, see :class:`Conv3x3x3`.
        upsampling: Interpolation of the level below; trilinear without aligned corners.
    """

    def __init__(
        self,
        skip_channels: int,
        below_channels: int,
        out_channels: int,
        *,
        bias: bool,
        padding: Padding,
        upsampling: Upsampling,
    ) -> None:
        super().__init__(skip_channels + below_channels, out_channels, bias=bias, padding=padding)
        self.skip_channels = skip_channels
        self.upsampling = upsampling

    def on_coarse_grid(self, voxels: int) -> bool:
        """Tell whether the level below is convolved on its own grid.

        Args:
            voxels: Number of voxels of the level below, over the batch.
        """
        return self.upsampling == "nearest" and voxels >= COARSE_VOXELS

    # Two inputs: this class inherits parameters and settings of Conv3d, not its signature.
    def forward(self, skip: Tensor, below: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve the concatenation (skip, upsampled).

        Args:
            skip: (B, skip_channels, 2X, 2Y, 2Z).
            below: (B, below_channels, X, Y, Z).

        Returns:
            (B, out_channels, 2X, 2Y, 2Z).
        """
        # A trace must be valid for grids of all sizes.
        if torch.jit.is_tracing() or not self.on_coarse_grid(below[:, 0].numel()):
            concatenated = torch.cat((skip, upsample(below, self.upsampling)), dim=1)
            return self._conv_forward(concatenated, self.weight, self.bias)
        skip_weight, below_weight = self.weight.tensor_split((self.skip_channels,), dim=1)
        return add_upsampled_convolution(
            self._conv_forward(skip, skip_weight, self.bias), below, below_weight, padding=self.padding_mode
        )


def upsample(x: Tensor, mode: Upsampling) -> Tensor:
    """Double every spatial axis of (B, C, X, Y, Z)."""
    if mode == "trilinear":
        return functional.interpolate(x, scale_factor=2, mode="trilinear")
    # Copies of bf16 values are exact; autocast would convert them to float32 needlessly.
    with torch.autocast(x.device.type, enabled=False):
        return functional.interpolate(x, scale_factor=2, mode="nearest")
