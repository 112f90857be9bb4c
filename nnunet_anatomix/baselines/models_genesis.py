"""3D U-Net of Models Genesis, with the tensor names of its published weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH = 32
_LEVELS = 4


class UNet3D(nn.Module):
    """3D U-Net with four levels, batch statistics and transposed convolutions.

    References:
        Zhou et al., Models Genesis, MICCAI 2019, arXiv:1908.06912; the names and sizes of the
        tensors are those of ``pytorch/unet3d.py`` of MrGiovanni/ModelsGenesis, commit 104f487.
    """

    def __init__(self) -> None:
        super().__init__()
        below = 1
        for level in range(_LEVELS):
            width = _WIDTH * 2**level
            self.add_module(f"down_tr{2 * width}", _Convolutions(below, (width, 2 * width)))
            below = 2 * width
        for level in reversed(range(_LEVELS - 1)):
            skip = 2 * _WIDTH * 2**level
            self.add_module(f"up_tr{skip}", _Up(below, below + skip, skip))
            below = skip
        self.out_tr = _Output(below)

    def forward(self, x: Tensor) -> Tensor:
        """Return the restored image.

        Args:
            x: (B, 1, X, Y, Z) in [0, 1]; every axis a multiple of 8.

        Returns:
            (B, 1, X, Y, Z) in [0, 1].
        """
        skips: list[Tensor] = []
        for level in range(_LEVELS):
            x = functional.max_pool3d(x, 2) if level else x
            x = self.get_submodule(f"down_tr{2 * _WIDTH * 2**level}")(x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(_LEVELS - 1)):
            x = self.get_submodule(f"up_tr{2 * _WIDTH * 2**level}")(x, skips.pop())
        return self.out_tr(x)


class _BatchStatistics(nn.BatchNorm3d):
    """Batch normalization that uses the batch's statistics in evaluation too, as published."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.eps)


class _Convolution(nn.Module):
    """3×3×3 convolution, normalization and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.bn1 = _BatchStatistics(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn1(self.conv1(x)))


class _Convolutions(nn.Module):
    """Two convolutions of one level."""

    def __init__(self, in_channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.ops = nn.Sequential(_Convolution(in_channels, first), _Convolution(first, second))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class _Up(_Convolutions):
    """Transposed convolution, concatenation with the skip connection, two convolutions."""

    def __init__(self, below: int, in_channels: int, width: int) -> None:
        super().__init__(in_channels, (width, width))
        self.up_conv = nn.ConvTranspose3d(below, below, 2, stride=2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        return self.ops(torch.cat((self.up_conv(x), skip), 1))


class _Output(nn.Module):
    """Restoration head."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.final_conv = nn.Conv3d(in_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.final_conv(x))
