"""Any network with a new segmentation head, as nnU-Net builds and runs it (rivals of Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_anatomix.finetuning.network import (
    SegmentationHeads,
    crop,
    pad,
    padding_margins,
    reduced_precision,
    rescale_channels,
)
from pretraining.backbone.external_weights import build_network
from pretraining.backbone.inference import normalize_voxelwise
from pretraining.backbone.layer_output import LayerOutput
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError


class OtherNetwork(nn.Module):
    """Network of a :class:`~pretraining.backbone.network_spec.NetworkSpec` with a 1×1×1 head.

    Its own heads (``ignore``) are removed. A plan names this class in ``network_class_name``, so
    that stock prediction also finds it. As in :class:`~.network.AnatomixNetwork`, every patch is
    scaled to [0, 1] first, and patches of any size are padded to what the network accepts.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        deep_supervision: Must be false.
        spec: Fields of the description.
        channels: Feature channels, see :func:`~.other_size.measure_network`.
        strides: Strides of nnU-Net's plan; unused here, but nnU-Net reads them.
        patch_size: (X, Y, Z) of the plan, voxels, for networks of one size.

    Raises:
        InputError: If the network cannot be built, or with deep supervision.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        spec: Mapping[str, Any],
        channels: int,
        strides: Sequence[Sequence[int]] | None = None,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.spec = from_dict(NetworkSpec, dict(spec))
        self.patch_size = None if patch_size is None else tuple(patch_size)
        if deep_supervision:
            raise InputError(f"{self.spec.network} has no deep supervision; train with -tr AnatomixTrainer")
        self.network = bare_network(self.spec, input_channels, self.patch_size)
        self.decoder = SegmentationHeads([channels], num_classes)
        self._features = LayerOutput(self.network, self.spec.layer, self.spec.network)

    # Compilation of arbitrary networks is not tested, and forward hooks would break its graphs.
    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Return logits.

        Args:
            x: (B, C, X, Y, Z), at least one voxel per axis, any intensity unit.

        Returns:
            (B, num_classes, X, Y, Z), float32 unless the caller opened autocast.
        """
        spec = self.spec
        if x.ndim != 5:
            raise InputError(
                f"{spec.network} is 3D: expected (B, C, X, Y, Z), found {tuple(x.shape)}; "
                "use the configuration 3d_fullres"
            )
        added = padding_margins(x.shape[2:], spec.multiple, spec.least_side)
        padded = pad(rescale_channels(x), added)
        if spec.max_side is not None and max(padded.shape[2:]) > spec.max_side:
            raise InputError(
                f"{spec.network}: expected at most {spec.max_side} voxels per side, found {tuple(padded.shape[2:])}; "
                "reduce the plan's patch_size"
            )
        with reduced_precision(x.device):
            features = self._features(spec.scale_input(padded))
        if features.shape[2:] != padded.shape[2:]:
            features = functional.interpolate(features.float(), size=padded.shape[2:], mode="trilinear")
        features = crop(features, added).to(x.dtype)
        if spec.voxelwise:
            features = normalize_voxelwise(features)
        return self.decoder.seg_layers[0](features)


def bare_network(spec: NetworkSpec, input_channels: int, patch_size: Sequence[int] | None = None) -> nn.Module:
    """Build the network of a description with random weights, without its heads.

    Args:
        spec: Description of the network.
        input_channels: Channels of its input.
        patch_size: (X, Y, Z), voxels, for networks of one size.

    Raises:
        InputError: If the network cannot be built, or if it takes only one channel.
    """
    size = {} if spec.size_argument is None or patch_size is None else {spec.size_argument: tuple(patch_size)}
    net = build_network(spec, "the plan", changes=size)
    _remove_heads(net, spec.ignore)
    if input_channels > 1:
        _widen_input(net, input_channels, spec.network)
    return net


class _Removed(nn.Module):
    """Placeholder of a removed part, which returns its first input."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


def _remove_heads(net: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Replace all modules whose names begin with a prefix, so that no unused parameter remains."""
    removed: tuple[str, ...] = ()
    for name, module in list(net.named_modules()):
        is_container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        if name and f"{name}.".startswith(prefixes) and not is_container and not name.startswith(removed):
            parent, _, attribute = name.rpartition(".")
            setattr(net.get_submodule(parent), attribute, _Removed())
            removed += (f"{name}.",)


def _widen_input(net: nn.Module, channels: int, network: str) -> None:
    """Repeat the weights of all convolutions of one channel, which are those that see the image.

    They are divided by the number of channels, so that equal channels give the original output.
    """
    found = False
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.in_channels == 1:
            module.in_channels, found = channels, True
            module.weight = nn.Parameter(module.weight.detach().repeat(1, channels, 1, 1, 1) / channels)
    if not found:
        raise InputError(
            f"{network} has no convolution of one input channel, expected one to adapt to {channels} image channels"
        )
