"""Feature extraction with other networks than this backbone (Tables 2 and 5, App. B.4.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.layer_output import LayerOutput, trial_run
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.backbone.unet import UNet
from pretraining.common.errors import InputError

_LIVE_SHARE = 0.5
"""Share of all activations of a forward pass that are in memory at once; U-Nets need less, so that
estimates are conservative.
"""


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
        self._features = LayerOutput(net, spec.layer, spec.network)
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
        output = self._features(self._spec.scale_input(x))
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
            with trial_run(self._spec.network, side, "kwargs, multiple or min_side"):
                features = self(torch.rand((1, 1, side, side, side), generator=torch.Generator().manual_seed(0)))
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
