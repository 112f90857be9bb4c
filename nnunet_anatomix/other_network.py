"""Another network in the place of our backbone, as what makes features (Tables 2 and 5, App. B.4.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.unet import UNet
from pretraining.common.checks import check_count
from pretraining.errors import InputError

_LIVE = 0.5
"""Share of all activations of a forward pass that are held at once; U-Nets hold less, so that estimates err to the safe side."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What a JSON file says of a network."""

    network: str
    """Dotted path of its class, a subclass of torch.nn.Module that takes one channel; a function that makes one needs --trust-code."""
    state: str
    """File with its state dict (.pth, .pt or .safetensors), relative to the JSON file; read without unpickling objects."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Of the class."""
    layer: str | None = None
    """Name of the submodule whose output are the features; the network's own output if left out."""
    state_key: str | None = None
    """Where in the file the state dict lies, e.g. ``state_dict``."""
    strip_prefix: str = ""
    """Of the state dict's keys, e.g. ``module.``."""
    ignore: tuple[str, ...] = ()
    """Beginnings of keys that are left aside: heads that come after ``layer``, or heads of another task in the file."""
    multiple: int = 32
    """Every side of the input must be a multiple of this, voxels."""
    min_side: int | None = None
    """Least side of the input, voxels; ``multiple`` if left out."""
    max_side: int | None = None
    """Greatest side of the input, voxels; a network of one fixed size has it in ``min_side`` too."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """What the network expects for the lower and the upper end of the clip window."""

    def __post_init__(self) -> None:
        check_count(multiple=self.multiple, min_side=self.least_side)
        if self.least_side % self.multiple:
            raise InputError(f"min_side: expected a multiple of {self.multiple}, found {self.min_side}")
        if self.max_side is not None and (self.max_side < self.least_side or self.max_side % self.multiple):
            raise ValueError(f"need max_side a multiple of {self.multiple} and at least {self.least_side}, got {self.max_side}")
        if not self.input_range[0] < self.input_range[1]:
            raise InputError(f"input_range: expected two numbers, the lower one first, found {self.input_range}")

    @property
    def least_side(self) -> int:
        """Least side of the input, voxels."""
        return self.multiple if self.min_side is None else self.min_side


@dataclass(frozen=True, kw_only=True)
class OtherConfig:
    """What features need to know of a network: as :class:`~pretraining.backbone.unet.UNetConfig` has it."""

    out_channels: int
    multiple: int
    min_side: int
    max_side: int | None = None
    in_channels: int = 1
    norm: str = "own"


class OtherNetwork(nn.Module):
    """Another network in the place of a backbone: takes intensities in [0, 1], gives features at the input's resolution.

    Parameters
    ----------
    net : its state loaded.
    spec : how to use it.

    Raises
    ------
    InputError
        If it has no such layer, fails on its smallest input, or gives no (B, C, X, Y, Z).
    """

    def __init__(self, net: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.net, self._spec = net.eval(), spec
        # A part of the state, so that whoever tells networks apart by their tensors tells apart two uses of one.
        self.register_buffer("spec", torch.tensor(list(json.dumps(asdict(spec)).encode()), dtype=torch.uint8))
        self._found: list[Any] = []
        if spec.layer is not None:
            try:
                layer = net.get_submodule(spec.layer)
            except AttributeError:
                names = [name for name, _ in net.named_modules() if name]
                raise InputError(
                    f"{spec.network} has no layer '{spec.layer}'; there are {names[:12]} and {max(0, len(names) - 12)} more"
                ) from None
            layer.register_forward_hook(lambda module, inputs, output: self._found.append(output))
        side = spec.least_side
        channels, self._values_per_voxel = self._tried(side)
        self.config = OtherConfig(out_channels=channels, multiple=spec.multiple, min_side=side, max_side=spec.max_side)

    def forward(self, x: Tensor) -> Tensor:
        """Features.

        Parameters
        ----------
        x : (B, 1, X, Y, Z) in [0, 1]; every axis a multiple of ``config.multiple``, from ``config.min_side`` to ``config.max_side``.

        Returns
        -------
        (B, C, X, Y, Z); those of a coarser layer upsampled trilinearly.
        """
        if self._spec.max_side is not None and max(x.shape[2:]) > self._spec.max_side:
            raise InputError(
                f"{self._spec.network} takes at most {self._spec.max_side} voxels a side, found {tuple(x.shape[2:])}; use windows"
            )
        low, high = self._spec.input_range
        self._found.clear()
        output = self.net(x * (high - low) + low)
        if self._spec.layer is not None:
            output = self._found.pop()
        while isinstance(output, (tuple, list)) and output:
            output = output[0]  # deep supervision: the finest comes first
        if not isinstance(output, Tensor) or output.ndim != 5 or len(output) != len(x):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"{self._spec.network}: expected features (B, C, X, Y, Z), found {found}; name another layer")
        if output.shape[2:] != x.shape[2:]:
            output = functional.interpolate(output.float(), size=x.shape[2:], mode="trilinear")
        return output

    def to(self, *args: Any, **kwargs: Any) -> OtherNetwork:
        """As of any module, but its memory layout stays: parameters of other than five axes would not take ours."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    def peak_bytes(self, shape: Sequence[int], bf16: bool) -> int:
        """Estimated peak of a forward pass on (X, Y, Z) voxels, beside weights and input."""
        return int(prod(shape) * (2 if bf16 else 4) * (_LIVE * self._values_per_voxel + 2 * self.config.out_channels))

    @torch.no_grad()
    def _tried(self, side: int) -> tuple[int, float]:
        """Channels, and activations of all layers per voxel of the input."""
        counted = [0]

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            counted[0] += sum(
                value.numel() for value in (output if isinstance(output, (tuple, list)) else [output]) if isinstance(value, Tensor)
            )

        hooks = [module.register_forward_hook(count) for module in self.net.modules() if not any(module.children())]
        try:
            features = self(torch.rand((1, 1, side, side, side), generator=torch.Generator().manual_seed(0)))
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{self._spec.network} fails on a cube of {side} voxels ({reason}); correct kwargs, multiple or min_side"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        return features.shape[1], counted[0] / side**3


def suited_side(net: FeatureNetwork, side: int) -> int:
    """The side of windows, voxels: as asked for a backbone of ours; for another network the greatest that it takes, at most ``side``."""
    if isinstance(net, UNet):
        return side
    side = min(side, net.config.max_side or side)
    return max(net.config.min_side, side // net.config.multiple * net.config.multiple)
