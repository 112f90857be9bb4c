"""3D UNet of the paper's Table 7 and its published variants, with named blocks."""

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
    """Architecture of the backbone; the defaults are the paper's Table 7 (5,899,344 parameters)."""

    in_channels: int = 1
    """Number of input channels; the published networks have one."""
    out_channels: int = 16
    """Number of feature channels of the output."""
    width: int = 16
    """Number of channels of the finest level; each pooling doubles it."""
    poolings: int = 4
    """Number of 2×2×2 poolings between input and bottleneck."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalization after every convolution, over the batch or over each scan."""
    norm_affine: bool = False
    """Scale and shift in instance normalization; without, convolutions have a bias."""
    norm_eps: float = 1e-5
    """Constant added to the variance in the normalization."""
    pooling: Literal["max", "average"] = "max"
    """2×2×2 pooling between encoder levels."""
    upsampling: Literal["nearest", "trilinear"] = "nearest"
    """Interpolation between decoder levels (trilinear without aligned corners)."""
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
                "norm_affine needs norm 'instance', found 'batch', which always has scale and shift; omit norm_affine"
            )

    @property
    def multiple(self) -> int:
        """Divisor of every input axis, voxels."""
        return 2**self.poolings

    @property
    def min_side(self) -> int:
        """Smallest input axis, voxels; reflection needs two voxels at the bottleneck."""
        return 2 * self.multiple if self.padding == "reflect" else self.multiple

    @property
    def conv_bias(self) -> bool:
        """True if convolutions have a bias, since the normalization does not shift channels."""
        return self.norm == "instance" and not self.norm_affine

    def channels(self, level: int) -> int:
        """Return the number of channels of a level.

        Args:
            level: Level from 0 (input resolution) to ``poolings`` (bottleneck).
        """
        return self.width * 2**level


class ConvBlock(nn.Module):
    """3×3×3 convolution, normalization and ReLU.

    Args:
        conv: Convolution of the block.
        config: Architecture, which determines the normalization.
    """

    def __init__(self, conv: Conv3x3x3, config: UNetConfig) -> None:
        super().__init__()
        self.conv, out_channels = conv, conv.out_channels
        if config.norm == "batch":
            self.norm: nn.Module = nn.BatchNorm3d(out_channels, eps=config.norm_eps)
        else:
            self.norm = InstanceNorm(out_channels, eps=config.norm_eps, affine=config.norm_affine)

    def activate(self, features: Tensor) -> Tensor:
        """Apply normalization and ReLU to the output of the convolution."""
        return functional.relu(self.norm(features), inplace=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.activate(self.conv(*inputs))


Item = TypeVar("Item", covariant=True)


class _Container(Protocol[Item]):
    """Type of a PyTorch container with the type of its items, which PyTorch does not declare."""

    def __iter__(self) -> Iterator[Item]: ...

    def __getitem__(self, position: int) -> Item: ...


_Blocks = _Container[ConvBlock]


class UNet(nn.Module):
    """Network of Table 7 from volumes to features.

    Blocks, in the order of computation: ``stem``; ``encoder.L`` for L = 0 (finest) to ``poolings -
    1``, two convolutions each; ``bottleneck``; ``decoder.L`` for L = ``poolings - 1`` down to 0,
    whose first convolution gets (skip of level L, upsampled); ``output``, a plain convolution. A
    *tap* is the name of one convolution, such as ``bottleneck.0`` or ``decoder.3.0``.

    Args:
        config: Architecture. Default: that of Table 7.
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
        self.encoder = cast(_Container[_Blocks], nn.ModuleList(encoder))
        self.decoder = cast(_Container[_Blocks], nn.ModuleList(decoder))
        self.output = _convolution(config.width, config.out_channels, config)
        self._frozen_statistics = False

    def freeze_statistics(self) -> UNet:
        """Use the running averages of batch normalization in training too, as in evaluation.

        Each feature then depends only on the neighbourhood of its voxel, not on the rest of the
        window. Scale and shift are still trained.

        Returns:
            This network.
        """
        if self._frozen_statistics:
            return self
        self._frozen_statistics = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> UNet:
        """Set training or evaluation mode; frozen statistics stay frozen."""
        super().train(mode)
        if self._frozen_statistics:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm3d):
                    part.eval()
        return self

    def convolutions(self) -> Iterator[tuple[str, nn.Conv3d]]:
        """Yield tap names and convolutions in the order of computation."""
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
        """Return tap name → (channels, level); each level halves the resolution of the input."""
        shapes = {"stem": (self.config.width, 0), "output": (self.config.out_channels, 0)}
        for name, blocks in self._stages():
            level = self.config.poolings if name == "bottleneck" else int(name.split(".")[1])
            shapes |= {f"{name}.{position}": (block.conv.out_channels, level) for position, block in enumerate(blocks)}
        return shapes

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output features.

        Args:
            x: (B, C, X, Y, Z), in [0, 1]; every axis a multiple of ``config.multiple`` and at least
                ``config.min_side``.

        Returns:
            (B, out_channels, X, Y, Z), unbounded.
        """
        return self.features(x, ("output",))["output"]

    def features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Compute outputs of named convolutions, before normalization and activation (App. B.3).

        Args:
            x: (B, C, X, Y, Z), see :meth:`forward`.
            taps: Names from :meth:`tap_shapes`.

        Returns:
            Tap name → (B, channels, X / 2^level, Y / 2^level, Z / 2^level).

        Raises:
            ValueError: For an unknown tap, or an axis that is too short or not divisible.
        """
        outputs, last = self.features_before_output(x, taps)
        if "output" in taps:
            outputs["output"] = self.output(last)
        return outputs

    def features_before_output(self, x: Tensor, taps: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Compute all convolutions except the last, which :meth:`output_at` evaluates sparsely.

        Args:
            x: (B, C, X, Y, Z), see :meth:`forward`.
            taps: Names from :meth:`tap_shapes`; ``output`` is allowed and ignored.

        Returns:
            Tap name → output as in :meth:`features`, without ``output``; and the input of the last
            convolution, (B, width, X, Y, Z), from which ``net.output`` computes the dense output.

        Raises:
            ValueError: For an unknown tap, or an axis that is too short or not divisible.
        """
        if unknown := set(taps).difference(self.tap_shapes()):  # a form that torch.compile understands
            raise ValueError(f"no tap {sorted(unknown)}, found {list(self.tap_shapes())}")
        self._check(x.shape[2:])
        outputs: dict[str, Tensor] = {}

        def record(tap: str, features: Tensor) -> Tensor:
            if tap in taps:
                outputs[tap] = features
            return features

        def stem(x: Tensor) -> Tensor:
            return self.stem.activate(record("stem", self.stem.conv(x)))

        stages = dict(self._stages())

        def run_stage(stage: str, *inputs: Tensor) -> Tensor:
            for position, block in enumerate(stages[stage]):
                inputs = (block.activate(record(f"{stage}.{position}", block.conv(*inputs))),)
            return inputs[0]

        # Only the next stage refers to a volume, so that it is freed once read (without gradients).
        skips: list[Tensor] = []
        for level in range(self.config.poolings):
            x = run_stage(f"encoder.{level}", self._pool(x) if level else stem(x))
            skips.append(x)
        x = run_stage("bottleneck", self._pool(x))
        for level in reversed(range(self.config.poolings)):
            x = run_stage(f"decoder.{level}", skips.pop(), x)
        return outputs, x

    def output_at(self, last: Tensor, positions: Tensor) -> Tensor:
        """Compute the output features at selected voxels.

        Args:
            last: (B, width, X, Y, Z) from :meth:`features_before_output`.
            positions: (n,) int64 flat indices into (X, Y, Z), shared by the batch, or (B, n). The
                dense ``net.output`` is cheaper for more than about one voxel in 27.

        Returns:
            (B, n, out_channels), equal to the dense output at these voxels.
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
        # The maximum of bf16 values is exact; autocast would convert them to float32 needlessly.
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
