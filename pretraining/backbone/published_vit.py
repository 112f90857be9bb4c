"""The published vision transformer ``anatomix-dev-vit``: a PrimusV2 that computes features.

The network is that of the package dynamic-network-architectures (Primus, arXiv:2503.01835), with
the published project's additions: normalized queries and keys, an epsilon of 1e-2 in the tokenizer,
and features from which the mean of each channel over the window is subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.backbone.network_spec import NetworkSpec
from pretraining.common.errors import InputError

_COMPILED_PREFIX = "_orig_mod."
_PATCH = 8
"""Side of a token, voxels; PrimusV2's tokenizer halves the resolution three times."""
_TOKENIZER_EPS = 1e-2
_LAYER_SCALE = 0.1
"""Initial value of the scales of each block; the file has the trained values."""
_BLOCK = re.compile(r"eva\.blocks\.(\d+)\.")


class CentredFeatures(nn.Module):
    """Network whose output channels have zero mean over the window.

    Args:
        net: Network with output (B, C, X, Y, Z).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, X, Y, Z) features of (B, 1, X, Y, Z) intensities in [0, 1]."""
        features = self.net(x)
        return features - features.mean((2, 3, 4), keepdim=True)


def is_published_vit(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict has the names of the published vision transformer."""
    names = {str(name).removeprefix(_COMPILED_PREFIX) for name in state}
    return "eva.pos_embed" in names and any(name.startswith("down_projection.") for name in names)


def build_published_vit(state: Mapping[str, Tensor], where: str) -> tuple[nn.Module, NetworkSpec]:
    """Build the network of a published state dict, in the size that its tensors have.

    Args:
        state: State dict, with the prefix of ``torch.compile`` or without.
        where: File, for messages.

    Returns:
        The network with its weights, and its description: windows have one size, that of its
        position embedding, and features are compared by direction.

    Raises:
        InputError: If dynamic-network-architectures is missing, or the tensors are not those of
            such a network.
    """
    state = {name.removeprefix(_COMPILED_PREFIX): tensor for name, tensor in state.items()}
    primus = _import_primus()
    try:
        sizes = _infer_sizes(state)
        with torch.random.fork_rng(devices=[]):  # the random initial weights are all replaced
            net = _build_primus(primus, **sizes)
        expected = net.state_dict()
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"{where}: begins like the published ViT, but has other tensors ({' '.join(str(error).split())[:120]}); "
            "fetch it again"
        ) from None
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    )
    if wrong:
        shapes = [tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else "none" for tensors in (expected, state)]
        raise InputError(
            f"{where}: {len(wrong)} tensors are not those of the published ViT, the first is '{wrong[0]}' "
            f"(expected {shapes[0]}, found {shapes[1]}); fetch it again, or update dynamic-network-architectures"
        )
    net.load_state_dict(state)
    side = sizes["side"]
    return CentredFeatures(net).eval(), NetworkSpec(
        network="anatomix-dev-vit", state=where, multiple=side, max_side=side, voxelwise=True
    )


def _infer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the arguments of :func:`_build_primus` from the tensors' names and shapes."""
    width = state["eva.norm.weight"].shape[0]
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    tokens = state["eva.pos_embed"].shape[1] - registers
    per_axis = round(tokens ** (1 / 3))
    if per_axis**3 != tokens:
        raise ValueError(f"{tokens} tokens are no cube")
    head = state["eva.blocks.0.attn.q_norm.weight"].shape[0]
    if width % head:
        raise ValueError(f"{width} channels are not divisible into heads of {head}")
    decoder = [name for name in state if re.fullmatch(r"up_projection\.decode\.(\d+|\d+\.0)\.weight", name)]
    return {
        "width": width,
        "depth": 1 + max(int(match.group(1)) for name in state if (match := _BLOCK.match(name))),
        "heads": width // head,
        "channels": state[max(decoder)].shape[1],
        "side": per_axis * _PATCH,
        "registers": registers,
        "layer_scale": _LAYER_SCALE if "eva.blocks.0.gamma_1" in state else None,
        "inner_norm": "eva.blocks.0.attn.norm.weight" in state,
    }


def _import_primus() -> type[nn.Module]:
    try:
        from dynamic_network_architectures.architectures.primus import PrimusV2
    except ImportError:
        raise InputError(
            "the published ViT needs the package dynamic-network-architectures with PrimusV2, which nnU-Net brings; "
            "run pip install dynamic-network-architectures"
        ) from None
    return PrimusV2


def _build_primus(
    primus: type[nn.Module],
    *,
    width: int,
    depth: int,
    heads: int,
    channels: int,
    side: int,
    registers: int,
    layer_scale: float | None,
    inner_norm: bool,
) -> nn.Module:
    """Build an untrained network with the published additions that have tensors."""
    net: Any = primus(
        input_channels=1,
        embed_dim=width,
        patch_embed_size=(_PATCH,) * 3,
        num_classes=channels,
        eva_depth=depth,
        eva_numheads=heads,
        input_shape=(side,) * 3,
        num_register_tokens=registers,
        init_values=layer_scale,
        scale_attn_inner=inner_norm,
    )
    for module in net.down_projection.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.eps = _TOKENIZER_EPS
    for block in net.eva.blocks:
        block.attn.q_norm, block.attn.k_norm = nn.LayerNorm(width // heads), nn.LayerNorm(width // heads)
    return net
