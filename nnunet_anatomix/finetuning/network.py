"""Backbone with a segmentation head, as nnU-Net builds and runs it (Sec. 4.2, App. B.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.inference import normalize_voxelwise
from pretraining.backbone.statistics import use_running_averages
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.config import from_dict
from pretraining.common.device import has_bf16_units
from pretraining.common.errors import InputError

FeatureNorm = Literal["none", "voxelwise"]


def backbone_config(arch_kwargs: Mapping[str, Any], in_channels: int = 1) -> UNetConfig:
    """Return the backbone that a plan's ``arch_kwargs`` describe.

    Args:
        arch_kwargs: Keyword arguments of :class:`AnatomixNetwork`; those that do not concern the
            backbone are ignored.
        in_channels: Image channels.
    """
    not_backbone = ("strides", "feature_norm")
    fields = {name: value for name, value in arch_kwargs.items() if name not in not_backbone}
    return from_dict(UNetConfig, {**fields, "in_channels": in_channels})


def rescale_channels(x: Tensor) -> Tensor:
    """Min-max scale every channel of every patch to [0, 1].

    A constant channel is clamped to [0, 1] instead. The one-hot channels of a cascade therefore
    stay unchanged, even in a patch inside one label.

    Args:
        x: (B, C, X, Y, Z), any intensity unit: z-scores of a stock plan, [0, 1] of our plans.

    Returns:
        (B, C, X, Y, Z) in [0, 1], the range that the backbone was pretrained on.
    """
    low, high = x.amin((2, 3, 4), keepdim=True), x.amax((2, 3, 4), keepdim=True)
    spread = high - low
    varies = spread > 0
    return (x - low) / torch.where(varies, spread, 1) + torch.where(varies, 0, low.clamp(0, 1))


def padding_margins(shape: Sequence[int], multiple: int, min_side: int) -> list[tuple[int, int]]:
    """Compute the padding that makes a shape valid for the backbone.

    Args:
        shape: Size of the patch, voxels.
        multiple: Side unit of the backbone, voxels.
        min_side: Smallest side that the backbone accepts, voxels.

    Returns:
        Voxels to add before and after each axis, so that it is a multiple of ``multiple`` and at
        least ``min_side``.
    """
    missing = [max(min_side, -(-side // multiple) * multiple) - side for side in shape]
    return [(total // 2, total - total // 2) for total in missing]


def pooling_strides(poolings: int) -> list[list[int]]:
    """Return the ``strides`` of a plan, from which nnU-Net reads the scales of deep supervision."""
    return [[1, 1, 1]] + [[2, 2, 2]] * poolings


class SegmentationHeads(nn.Module):
    """Segmentation heads: a 1×1×1 convolution to classes per supervised resolution.

    Without deep supervision there is only the full-resolution head: parameters without gradient
    would stop distributed training. Coarser heads in a checkpoint are then ignored.

    Args:
        channels: Feature channels, from the full resolution down; one entry per head.
        classes: Output channels of each head.

    Notes:
        nnU-Net's ``-pretrained_weights`` skips parameters by the attribute name ``seg_layers``.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.seg_layers = nn.ModuleList(nn.Conv3d(count, classes, 1) for count in channels)
        # nnU-Net switches it off for validation.
        self.deep_supervision = len(channels) > 1

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if len(self.seg_layers) == 1:
            own = f"{prefix}seg_layers."
            for key in [key for key in state_dict if key.startswith(own) and not key.startswith(f"{own}0.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class AnatomixNetwork(nn.Module):
    """Backbone and 1×1×1 convolutions to classes, for patches of any size and intensity scale.

    A plan names this class in ``network_class_name``, so that stock trainers and stock prediction
    also find it.

    Args:
        input_channels: Image channels.
        num_classes: Output channels.
        deep_supervision: Also return logits at the coarser decoder levels, as stock trainers
            require; off in the paper.
        strides: Strides of nnU-Net's plan; must match the backbone.
        feature_norm: ``voxelwise`` applies :func:`normalize_voxelwise` before the full-resolution
            head, as the published 94M network requires.
        backbone: Fields of :class:`~pretraining.backbone.unet.UNetConfig` except ``in_channels``.
            Default: the paper's Table 7.

    Raises:
        InputError: For an unknown backbone field, a value out of range or strides of another
            network.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] | None = None,
        feature_norm: FeatureNorm = "none",
        **backbone: Any,
    ) -> None:
        super().__init__()
        config = backbone_config(backbone, input_channels)
        expected = pooling_strides(config.poolings)
        if strides is not None and [list(stride) for stride in strides] != expected:
            raise InputError(
                f"the plan's strides must be {expected}, as its backbone has {config.poolings} poolings; "
                f"found {strides}"
            )
        if feature_norm not in ("none", "voxelwise"):
            raise InputError(f"feature_norm is 'none' or 'voxelwise', found {feature_norm!r}")
        self._feature_norm = feature_norm
        self.backbone = UNet(config)
        shapes = self.backbone.tap_shapes()
        self._taps = (
            ("output", *(f"decoder.{level}.1" for level in range(1, config.poolings)))
            if deep_supervision
            else ("output",)
        )
        self.decoder = SegmentationHeads([shapes[tap][0] for tap in self._taps], num_classes)
        self.to(memory_format=torch.channels_last_3d)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state; running averages, of an older training, bring batch normalization back."""
        if "backbone.stem.norm.running_mean" in state_dict and self.backbone.config.norm_affine:
            use_running_averages(self.backbone)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits.

        Args:
            x: (B, C, X, Y, Z), at least one voxel per axis; with deep supervision, multiples of
                the backbone's side unit.

        Returns:
            (B, num_classes, X, Y, Z), float32 unless the caller opened autocast; with deep
            supervision a list of such tensors, each at half the resolution of the previous one.
        """
        if x.ndim != 5:
            raise InputError(
                f"AnatomixNetwork is 3D: expected (B, C, X, Y, Z), found {tuple(x.shape)}; "
                "use the configuration 3d_fullres"
            )
        config, taps = self.backbone.config, self._taps if self.decoder.deep_supervision else self._taps[:1]
        added = padding_margins(x.shape[2:], config.multiple, config.min_side)
        if len(taps) > 1 and any(map(any, added)):
            raise InputError(
                f"deep supervision needs patch sides that are multiples of {config.multiple} and at least "
                f"{config.min_side} voxels, found {tuple(x.shape[2:])}; "
                "change the plan's patch_size or train with -tr AnatomixTrainer"
            )
        with reduced_precision(x.device):
            tapped = self.backbone.features(
                pad(rescale_channels(x), added).contiguous(memory_format=torch.channels_last_3d), taps
            )
        # The heads are cheap; outside of our autocast their logits keep the resolution of float32.
        features = [(crop(tapped[tap], added) if tap == "output" else tapped[tap]).to(x.dtype) for tap in taps]
        if self._feature_norm == "voxelwise":
            features[0] = normalize_voxelwise(features[0])
        logits = [head(level) for head, level in zip(self.decoder.seg_layers, features, strict=False)]
        return logits if len(logits) > 1 else logits[0]


def pad(x: Tensor, added: Sequence[tuple[int, int]]) -> Tensor:
    """Pad by reflection, as the backbone's convolutions do; repeat the border of short axes.

    Args:
        x: (B, C, X, Y, Z).
        added: Voxels before and after each axis, see :func:`padding_margins`.
    """
    if not any(map(any, added)):
        return x
    fits = all(after < side for (_, after), side in zip(added, x.shape[2:], strict=True))
    # functional.pad counts axes from the last.
    return functional.pad(
        x, [side for pair in reversed(added) for side in pair], mode="reflect" if fits else "replicate"
    )


def crop(x: Tensor, added: Sequence[tuple[int, int]]) -> Tensor:
    """Remove the padding of :func:`pad`.

    Args:
        x: (B, C, X, Y, Z), padded.
        added: Voxels before and after each axis.
    """
    inner: tuple[Any, ...] = (
        ...,
        *(slice(before, side - after) for (before, after), side in zip(added, x.shape[2:], strict=True)),
    )
    return x[inner]


def reduced_precision(device: torch.device) -> AbstractContextManager:
    """Return a bfloat16 autocast context on CPUs that are faster with it, else a null context.

    Notes:
        On CUDA, nnU-Net itself opens float16 autocast around training and prediction; on CPU it
        never does. The network opens this context, so that the trainer, its validation, stock
        prediction and stock trainers are all faster. Measured on 2 cores (AMD EPYC), 2×48×64×48,
        forward and backward, channels-last: 1.1 s in float32, 0.64 s in bfloat16.
    """
    if device.type == "cpu" and has_bf16_units(device):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
