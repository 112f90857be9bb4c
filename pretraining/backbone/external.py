"""Feature extraction with other networks than this backbone (Tables 2 and 5, App. B.4.3)."""

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
from pretraining.common.errors import InputError

_LIVE_SHARE = 0.5
"""Share of all activations of a forward pass that are in memory at once; U-Nets need less, so that
estimates are conservative.
"""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Description of a network in a JSON file."""

    network: str
    """Dotted path of a torch.nn.Module class with one input; a function needs --trust-code."""
    state: str
    """File with the state dict (.pth, .pt or .safetensors), relative to the JSON file; read without
    unpickling objects.
    """
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""
    layer: str | None = None
    """Name of the submodule whose output provides the features. Default: the network's output."""
    state_key: str | None = None
    """Key of the state dict in the file, such as state_dict. Default: the file itself."""
    strip_prefix: str = ""
    """Prefix to remove from the keys of the state dict, such as "module."."""
    ignore: tuple[str, ...] = ()
    """Prefixes of ignored keys: heads after the layer, or heads of other tasks in the file."""
    multiple: int = 32
    """Divisor of every side of the input, voxels."""
    min_side: int | None = None
    """Smallest side of the input, voxels. Default: multiple."""
    max_side: int | None = None
    """Largest side of the input, voxels; equal to min_side for a fixed size. Default: unlimited."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """Input values for the lower and the upper end of the clip window."""
    voxelwise: bool = False
    """Divide the features of each voxel by their root mean square: only directions count."""

    def __post_init__(self) -> None:
        check_count(multiple=self.multiple, min_side=self.least_side)
        if self.least_side % self.multiple:
            raise InputError(f"min_side: expected a multiple of {self.multiple}, found {self.min_side}")
        if self.max_side is not None and (self.max_side < self.least_side or self.max_side % self.multiple):
            raise ValueError(
                f"need max_side a multiple of {self.multiple} and at least {self.least_side}, got {self.max_side}"
            )
        if not self.input_range[0] < self.input_range[1]:
            raise InputError(f"input_range: expected two numbers, the lower one first, found {self.input_range}")

    @property
    def least_side(self) -> int:
        """Smallest side of the input, voxels."""
        return self.multiple if self.min_side is None else self.min_side


@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
    """Properties of a network for feature extraction.

    The names are those of :class:`~pretraining.backbone.unet.UNetConfig`.
    """

    out_channels: int
    multiple: int
    min_side: int
    max_side: int | None = None
    in_channels: int = 1
    norm: str = "own"


class ExternalNetwork(nn.Module):
    """Wrapper of another network with the interface of the backbone.

    It maps intensities in [0, 1] to features at the resolution of the input.

    Args:
        net: Network with its state loaded.
        spec: Description of the network.

    Raises:
        InputError: If the layer does not exist, the network fails on its smallest input, or the
            output is not (B, C, X, Y, Z).
    """

    def __init__(self, net: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.net, self._spec = net.eval(), spec
        # Part of the state, so that a digest of the tensors distinguishes two uses of one network.
        self.register_buffer("spec", torch.tensor(list(json.dumps(asdict(spec)).encode()), dtype=torch.uint8))
        self._layer_outputs: list[Any] = []
        if spec.layer is not None:
            try:
                layer = net.get_submodule(spec.layer)
            except AttributeError:
                names = [name for name, _ in net.named_modules() if name]
                raise InputError(
                    f"{spec.network} has no layer '{spec.layer}', found {names[:12]} "
                    f"and {max(0, len(names) - 12)} more; correct 'layer'"
                ) from None
            layer.register_forward_hook(lambda module, inputs, output: self._layer_outputs.append(output))
        side = spec.least_side
        channels, self._values_per_voxel = self._measure(side)
        self.config = ExternalConfig(
            out_channels=channels,
            multiple=spec.multiple,
            min_side=side,
            max_side=spec.max_side,
            norm="instance" if spec.voxelwise else "own",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute features.

        Args:
            x: (B, 1, X, Y, Z) in [0, 1]; every axis a multiple of ``config.multiple``, from
                ``config.min_side`` to ``config.max_side``.

        Returns:
            (B, C, X, Y, Z); features of a coarser layer are upsampled trilinearly.
        """
        if self._spec.max_side is not None and max(x.shape[2:]) > self._spec.max_side:
            raise InputError(
                f"{self._spec.network}: expected at most {self._spec.max_side} voxels per side, "
                f"found {tuple(x.shape[2:])}; use windows"
            )
        low, high = self._spec.input_range
        self._layer_outputs.clear()
        output = self.net(x * (high - low) + low)
        if self._spec.layer is not None:
            output = self._layer_outputs.pop()
        while isinstance(output, (tuple, list)) and output:
            output = output[0]  # with deep supervision, the finest output is the first
        if not isinstance(output, Tensor) or output.ndim != 5 or len(output) != len(x):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"{self._spec.network}: expected features (B, C, X, Y, Z), found {found}; choose another layer"
            )
        if output.shape[2:] != x.shape[2:]:
            output = functional.interpolate(output.float(), size=x.shape[2:], mode="trilinear")
        return output

    def to(self, *args: Any, **kwargs: Any) -> ExternalNetwork:
        """Move the network like any module, but keep its memory layout.

        The backbone's layout does not apply to parameters without five axes.
        """
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    def peak_bytes(self, shape: Sequence[int], bf16: bool) -> int:
        """Estimate the peak memory of a forward pass on (X, Y, Z) voxels.

        Args:
            shape: (X, Y, Z), voxels.
            bf16: Whether the network computes in bfloat16.

        Returns:
            Bytes, without weights and input.
        """
        values_per_voxel = _LIVE_SHARE * self._values_per_voxel + 2 * self.config.out_channels
        return int(prod(shape) * (2 if bf16 else 4) * values_per_voxel)

    @torch.no_grad()
    def _measure(self, side: int) -> tuple[int, float]:
        """Return the number of channels, and of activations of all layers per input voxel."""
        total = [0]

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            total[0] += sum(
                value.numel()
                for value in (output if isinstance(output, (tuple, list)) else [output])
                if isinstance(value, Tensor)
            )

        hooks = [module.register_forward_hook(count) for module in self.net.modules() if not any(module.children())]
        try:
            features = self(torch.rand((1, 1, side, side, side), generator=torch.Generator().manual_seed(0)))
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{self._spec.network} fails on a cube of {side} voxels ({reason}); "
                "correct kwargs, multiple or min_side"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        return features.shape[1], total[0] / side**3


def fit_window_side(net: FeatureNetwork, side: int) -> int:
    """Reduce the side of windows to one that a network accepts.

    Args:
        net: Network; the side stays unchanged for a backbone.
        side: Requested side, voxels.

    Returns:
        The largest accepted side up to ``side``, voxels.
    """
    if isinstance(net, UNet):
        return side
    side = min(side, net.config.max_side or side)
    return max(net.config.min_side, side // net.config.multiple * net.config.multiple)
