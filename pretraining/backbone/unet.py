"""The 3D UNet of the paper's Table 7 and its published variants, as named blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.convolutions import Conv3x3x3, SkipConv3x3x3
from pretraining.backbone.instance_norm import InstanceNorm
from pretraining.common.checks import check_choice, check_count, check_positive


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Architecture of a backbone; the defaults are the paper's Table 7 (5,899,344 parameters)."""

    in_channels: int = 1
    """Input channels; the published networks have one."""
    out_channels: int = 16
    """Feature channels of the output."""
    width: int = 16
    """Channels of the finest level; each pooling doubles them."""
    poolings: int = 4
    """Halvings of the resolution between input and bottleneck."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalization after every convolution: over the batch with running averages, or over each
    scan by itself.
    """
    norm_affine: bool = False
    """Whether instance normalization scales and shifts each channel; if not, convolutions carry a
    bias. Batch normalization always does.
    """
    norm_eps: float = 1e-5
    """Added to the variance inside the normalization."""
    pooling: Literal["max", "average"] = "max"
    """2×2×2 pooling between encoder levels."""
    upsampling: Literal["nearest", "trilinear"] = "nearest"
    """Doubling of the resolution between decoder levels (trilinear without aligned corners)."""
    padding: Literal["reflect", "zeros"] = "reflect"
    """Padding of every 3×3×3 convolution."""

    def __post_init__(self) -> None:
        check_count(
            in_channels=self.in_channels, out_channels=self.out_channels, width=self.width, poolings=self.poolings
        )
        check_positive(norm_eps=self.norm_eps)
        choices = {
            "norm": ("batch", "instance"),
            "pooling": ("max", "average"),
            "upsampling": ("nearest", "trilinear"),
            "padding": ("reflect", "zeros"),
        }
        for name, known in choices.items():
            check_choice(known, **{name: getattr(self, name)})
        if self.norm_affine and self.norm == "batch":
            raise ValueError(
                "norm_affine is a choice of norm 'instance'; batch normalization always has scale and shift, so leave it out"
            )

    @property
    def multiple(self) -> int:
        """Every input axis is a multiple of this many voxels."""
        return 2**self.poolings

    @property
    def min_side(self) -> int:
        """Smallest input axis, voxels: reflection needs two voxels at the bottleneck."""
        return 2 * self.multiple if self.padding == "reflect" else self.multiple

    @property
    def conv_bias(self) -> bool:
        """Whether convolutions carry a bias: where no normalization shifts their channels."""
        return self.norm == "instance" and not self.norm_affine

    def channels(self, level: int) -> int:
        """Channels at ``level``: 0 is the input's resolution, ``poolings`` the bottleneck."""
        return self.width * 2**level


class ConvBlock(nn.Module):
    """3×3×3 convolution, normalization, ReLU."""

    def __init__(self, conv: Conv3x3x3, config: UNetConfig) -> None:
        super().__init__()
        self.conv, out_channels = conv, conv.out_channels
        if config.norm == "batch":
            self.norm: nn.Module = nn.BatchNorm3d(out_channels, eps=config.norm_eps)
        else:
            self.norm = InstanceNorm(out_channels, eps=config.norm_eps, affine=config.norm_affine)

    def activate(self, features: Tensor) -> Tensor:
        """What follows the convolution."""
        return functional.relu(self.norm(features), inplace=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.activate(self.conv(*inputs))


Part = TypeVar("Part", covariant=True)


class _Parts(Protocol[Part]):
    """A container of PyTorch's, which does not say itself what it holds."""

    def __iter__(self) -> Iterator[Part]: ...

    def __getitem__(self, position: int) -> Part: ...


_Blocks = _Parts[ConvBlock]


class UNet(nn.Module):
    """Volume-to-features network of Table 7.

    Blocks, in the order of computation: ``stem``; ``encoder.L`` for L = 0 (finest) to ``poolings -
    1``, two convolutions each; ``bottleneck``; ``decoder.L`` for L = ``poolings - 1`` down to 0,
    whose first convolution sees (skip of level L, upsampled); ``output``, a plain convolution. A
    *tap* names one convolution, e.g. ``bottleneck.0`` or ``decoder.3.0``.

    Args:
        config: The architecture.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        levels = range(config.poolings)
        self.stem = ConvBlock(_convolution(config.in_channels, config.width, config), config)
        sizes = [config.width, *(config.channels(level) for level in range(config.poolings + 1))]
        *encoder, bottleneck = (_pair(_convolution(*pair, config), config) for pair in itertools.pairwise(sizes))
        decoder = (_pair(_skip_convolution(level, config), config) for level in levels)
        self.bottleneck = cast(_Blocks, bottleneck)
        self.encoder = cast(_Parts[_Blocks], nn.ModuleList(encoder))
        self.decoder = cast(_Parts[_Blocks], nn.ModuleList(decoder))
        self.output = _convolution(config.width, config.out_channels, config)
        self._frozen_statistics = False

    def freeze_statistics(self) -> UNet:
        """Let batch normalization use its running averages in training as well, so that training sees what evaluation will.

        Every feature then depends on what lies near its voxel alone, not on what else the window
        shows. Scale and shift are still learned.
        """
        if self._frozen_statistics:
            return self
        self._frozen_statistics = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> UNet:
        """Set the mode; frozen statistics stay frozen."""
        super().train(mode)
        if self._frozen_statistics:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm3d):
                    part.eval()
        return self

    def convolutions(self) -> Iterator[tuple[str, nn.Conv3d]]:
        """Tap names and convolutions in the order of computation."""
        yield "stem", self.stem.conv
        for name, blocks in self._stages():
            for position, block in enumerate(blocks):
                yield f"{name}.{position}", block.conv
        yield "output", self.output

    def _stages(self) -> Iterator[tuple[str, _Blocks]]:
        yield from ((f"encoder.{level}", blocks) for level, blocks in enumerate(self.encoder))
        yield "bottleneck", self.bottleneck
        yield from ((f"decoder.{level}", self.decoder[level]) for level in reversed(range(self.config.poolings)))

    def tap_shapes(self) -> dict[str, tuple[int, int]]:
        """Tap name → (channels, level); a level's grid is the input's halved that many times."""
        shapes = {"stem": (self.config.width, 0), "output": (self.config.out_channels, 0)}
        for name, blocks in self._stages():
            level = self.config.poolings if name == "bottleneck" else int(name.split(".")[1])
            shapes |= {f"{name}.{position}": (block.conv.out_channels, level) for position, block in enumerate(blocks)}
        return shapes

    def forward(self, x: Tensor) -> Tensor:
        """Features of the output level.

        Args:
            x: (B, C, X, Y, Z), in [0, 1]; every axis a multiple of ``config.multiple`` and at least
                ``config.min_side``.

        Returns:
            (B, out_channels, X, Y, Z), unbounded.
        """
        return self.features(x, ("output",))["output"]

    def features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named convolutions, before normalization and activation (App. B.3).

        Args:
            x: As for :meth:`forward`.
            taps: Names as in :meth:`tap_shapes`.

        Returns:
            Tap name → (B, channels, X / 2^level, Y / 2^level, Z / 2^level).

        Raises:
            ValueError: For an unknown tap or an axis that the poolings or the reflection cannot
                take.
        """
        found, last = self.features_before_output(x, taps)
        if "output" in taps:
            found["output"] = self.output(last)
        return found

    def features_before_output(self, x: Tensor, taps: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """All but the last convolution, which need not be evaluated everywhere: see :meth:`output_at`.

        Args:
            x: As for :meth:`forward`.
            taps: As for :meth:`features`; ``output`` may be among them and is left out of what is
                returned.

        Returns:
            What :meth:`features` returns, without ``output``; and the input of the last
            convolution, (B, width, X, Y, Z), of which ``net.output`` makes the dense output.

        Raises:
            ValueError: As :meth:`features`.
        """
        if unknown := set(taps) - self.tap_shapes().keys():
            raise ValueError(f"no tap {sorted(unknown)}; there are {list(self.tap_shapes())}")
        self._check(x.shape[2:])
        found: dict[str, Tensor] = {}

        def tapped(tap: str, features: Tensor) -> Tensor:
            if tap in taps:
                found[tap] = features
            return features

        def stem(x: Tensor) -> Tensor:
            return self.stem.activate(tapped("stem", self.stem.conv(x)))

        stages = dict(self._stages())

        def through(stage: str, *inputs: Tensor) -> Tensor:
            for position, block in enumerate(stages[stage]):
                inputs = (block.activate(tapped(f"{stage}.{position}", block.conv(*inputs))),)
            return inputs[0]

        # Volumes are handed over, not kept in a name: without gradients each is freed as soon as it
        # is read.
        skips: list[Tensor] = []
        for level in range(self.config.poolings):
            x = through(f"encoder.{level}", self._pool(x) if level else stem(x))
            skips.append(x)
        x = through("bottleneck", self._pool(x))
        for level in reversed(range(self.config.poolings)):
            x = through(f"decoder.{level}", skips.pop(), x)
        return found, x

    def output_at(self, last: Tensor, positions: Tensor) -> Tensor:
        """Features of the output level at some voxels, without those of the others.

        Args:
            last: From :meth:`features_before_output`, (B, width, X, Y, Z).
            positions: (n,) int64 flat indices into (X, Y, Z), the same in all of B, or (B, n). The
                dense ``net.output`` is the cheaper one for more than about one voxel in 27.

        Returns:
            (B, n, out_channels), what the dense output has there.
        """
        return self.output.at(last, positions)

    def _check(self, shape: Sequence[int]) -> None:
        multiple, least = self.config.multiple, self.config.min_side
        if len(shape) != 3 or any(side % multiple or side < least for side in shape):
            raise ValueError(
                f"every axis must be a multiple of {multiple} and at least {least} voxels, got {tuple(shape)}"
            )

    def _pool(self, x: Tensor) -> Tensor:
        if self.config.pooling == "average":
            return functional.avg_pool3d(x, 2)
        # The greatest of bf16 values is one of them; autocast would widen them for nothing.
        with torch.autocast(x.device.type, enabled=False):
            return functional.max_pool3d(x, 2)


def _convolution(in_channels: int, out_channels: int, config: UNetConfig) -> Conv3x3x3:
    return Conv3x3x3(in_channels, out_channels, bias=config.conv_bias, padding=config.padding)


def _skip_convolution(level: int, config: UNetConfig) -> SkipConv3x3x3:
    skip, below = config.channels(level), config.channels(level + 1)
    return SkipConv3x3x3(skip, below, skip, bias=config.conv_bias, padding=config.padding, upsampling=config.upsampling)


def _pair(first: Conv3x3x3, config: UNetConfig) -> nn.Sequential:
    channels = first.out_channels
    return nn.Sequential(ConvBlock(first, config), ConvBlock(_convolution(channels, channels, config), config))
