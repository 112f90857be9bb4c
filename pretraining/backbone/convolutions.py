"""The 3×3×3 convolutions of the backbone, evaluated with as little memory traffic and arithmetic as their result allows."""

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
"""Fewest voxels of the coarse grid, over the batch, for which merging a kernel pays off: its cost
does not grow with the grid.
"""


class Conv3x3x3(nn.Conv3d):
    """Convolution that keeps the grid; parameters are named as in :class:`torch.nn.Conv3d`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Whether a bias is added.
        padding: What lies beyond the border: its mirror image or zeros.
    """

    padding_mode: Padding

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool, padding: Padding) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias, padding_mode=padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return functional.conv3d(input, weight, bias, padding=1)
        return functional.conv3d(pad_by_one(input, "reflect"), weight, bias)

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        """Output at some voxels only, see :func:`pretraining.backbone.neighbourhoods.convolution_at`.

        Args:
            x: (B, in_channels, X, Y, Z).
            positions: (n,) or (B, n) int64 flat indices into (X, Y, Z).

        Returns:
            (B, n, out_channels).
        """
        return convolution_at(x, positions, self.weight, self.bias, padding=self.padding_mode)


class SkipConv3x3x3(Conv3x3x3):
    """First convolution of a decoder level: of the concatenation (skip, upsampled), which is made only where it is cheaper.

    A convolution of a concatenation is the sum of two convolutions, and one of a volume upsampled
    by nearest neighbour can be computed on the coarse grid, see
    :mod:`pretraining.backbone.subpixel`.

    Args:
        skip_channels: Channels of the skip connection, first in the kernel.
        below_channels: Channels of the level below.
        out_channels: Channels of the output.
        bias: Whether a bias is added.
        padding: As for :class:`Conv3x3x3`.
        upsampling: How the level below is doubled; trilinear without aligned corners.
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
        """Whether the level below is convolved as it is, given its number of voxels, over the batch."""
        return self.upsampling == "nearest" and voxels >= COARSE_VOXELS

    # torch.nn.Module leaves it free what forward takes; of Conv3d, parameters and settings are
    # meant, not its one input.
    def forward(self, skip: Tensor, below: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve (skip, upsampled).

        Args:
            skip: (B, skip_channels, 2X, 2Y, 2Z).
            below: (B, below_channels, X, Y, Z).

        Returns:
            (B, out_channels, 2X, 2Y, 2Z).
        """
        # A trace holds for grids of all sizes.
        if torch.jit.is_tracing() or not self.on_coarse_grid(below[:, 0].numel()):
            both = torch.cat((skip, upsample(below, self.upsampling)), dim=1)
            return self._conv_forward(both, self.weight, self.bias)
        of_skip, of_below = self.weight.tensor_split((self.skip_channels,), dim=1)
        return add_upsampled_convolution(
            self._conv_forward(skip, of_skip, self.bias), below, of_below, padding=self.padding_mode
        )


def upsample(x: Tensor, mode: Upsampling) -> Tensor:
    """Double every axis of (B, C, X, Y, Z)."""
    if mode == "trilinear":
        return functional.interpolate(x, scale_factor=2, mode="trilinear")
    # Copies of bf16 values are bf16 values; autocast would widen them for nothing.
    with torch.autocast(x.device.type, enabled=False):
        return functional.interpolate(x, scale_factor=2, mode="nearest")
