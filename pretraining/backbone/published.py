"""Conversion between published checkpoints and the state of :class:`~.unet.UNet`.

Published checkpoints are state dicts of a flat ``nn.Sequential`` (``model.0.weight``, ...). It
numbers convolution, normalization and activation of every block, and each pooling or upsampling, in
the order of computation; only convolutions and batch normalizations have tensors.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.errors import InputError

_COMPILED_PREFIX = "_orig_mod."


def published_names(config: UNetConfig) -> dict[str, str]:
    """Map tensor names of a UNet to published names, in the published order.

    Args:
        config: Architecture of the network.
    """
    with torch.device("meta"):
        net = UNet(config)
    names: dict[str, str] = {}
    number = 0
    for tap, _ in net.convolutions():
        stage, _, position = tap.rpartition(".")
        # A pooling or upsampling has one number before the first block of its stage.
        number += position == "0" and stage != "encoder.0"
        for part, offset in (("conv.", 0), ("norm.", 1)):
            prefix = f"{tap}." if tap == "output" else f"{tap}.{part}"
            if tap == "output" and offset:
                continue
            suffixes = [key.removeprefix(prefix) for key in net.state_dict() if key.startswith(prefix)]
            names |= {f"{prefix}{suffix}": f"model.{number + offset}.{suffix}" for suffix in suffixes}
        number += 3
    return names


def to_published(state: dict[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Convert the state of a UNet to a published state dict, without copying tensors.

    Args:
        state: State of a UNet.
        config: Architecture of the network.
    """
    return {published: state[name] for name, published in published_names(config).items()}


def from_published(published: dict[str, Tensor]) -> tuple[dict[str, Tensor], UNetConfig]:
    """Convert a published state dict to the state of a UNet, without copying tensors.

    A prefix ``_orig_mod.`` (added by ``torch.compile``) is removed.

    Args:
        published: Published state dict.

    Returns:
        State of a UNet, and its architecture.

    Raises:
        InputError: If the tensors are not those of a published UNet; the message names the first
            that does not fit.
    """
    published = {key.removeprefix(_COMPILED_PREFIX): tensor for key, tensor in published.items()}
    config = _infer_architecture(published)
    names = published_names(config)
    if missing := [key for key in names.values() if key not in published]:
        raise InputError(
            f"not a published anatomix UNet: {len(missing)} tensors are missing, the first is '{missing[0]}'"
        )
    if unexpected := sorted(published.keys() - set(names.values())):
        raise InputError(
            f"not a published anatomix UNet: {len(unexpected)} tensors are unknown, the first is '{unexpected[0]}'"
        )
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in UNet(config).state_dict().items()}
    for name, key in names.items():
        if published[key].shape != shapes[name]:
            raise InputError(
                f"'{key}' has shape {tuple(published[key].shape)}, expected {tuple(shapes[name])} for {config}"
            )
    return {name: published[key] for name, key in names.items()}, config


def _infer_architecture(published: dict[str, Tensor]) -> UNetConfig:
    """Infer width, depth and normalization from the tensors' names and shapes.

    Notes:
        Pooling, upsampling and epsilon have no tensors. Published networks with batch normalization
        use max pooling and nearest upsampling; those with instance normalization use average
        pooling, trilinear upsampling and an epsilon of 1e-2.
    """
    numbered = {
        int(match[1]): tensor
        for key, tensor in published.items()
        if (match := re.fullmatch(r"model\.(\d+)\.weight", key)) and tensor.ndim == 5
    }
    weights = [numbered[number] for number in sorted(numbered)]
    foreign = [key for key in published if not key.startswith("model.")]
    if foreign or len(weights) < 8 or len(weights) % 4:
        example = (foreign or list(published))[:1]
        raise InputError(
            "not a published anatomix UNet: expected tensors 'model.0.weight', 'model.3.weight', … of 3D convolutions, "
            f"found {len(published)} tensors like {example}; other architectures cannot "
            "be imported"
        )
    batch_norm = "model.1.running_mean" in published
    return UNetConfig(
        in_channels=weights[0].shape[1],
        out_channels=weights[-1].shape[0],
        width=weights[0].shape[0],
        poolings=len(weights) // 4 - 1,
        norm="batch" if batch_norm else "instance",
        norm_eps=1e-5 if batch_norm else 1e-2,
        pooling="max" if batch_norm else "average",
        upsampling="nearest" if batch_norm else "trilinear",
    )
