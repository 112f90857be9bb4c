"""Weights files: search, validation, loading and writing.

A weights file is a ``.safetensors`` file with tensors, architecture and card.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pretraining.backbone.published import from_published, to_published
from pretraining.backbone.published_vit import is_published_vit
from pretraining.backbone.tensor_files import check_state, load_tensor_file
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.archive import mentions
from pretraining.common.atomic import atomic_write
from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError
from pretraining.common.finite import require_finite

FORMAT = "anatomix-weights/1"
_CHECKPOINT_KEY = "network_weights"
"""Key of the network in nnU-Net's checkpoints."""
_LARGEST = {"in_channels": 1024, "out_channels": 4096, "width": 1024, "poolings": 8}
"""Upper bounds of a valid architecture, far above all published networks."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Weights of a trained backbone.

    Attributes:
        architecture: Architecture of the network.
        state: State dict of :class:`~.unet.UNet` as stored; tensors may be half precision.
        card: Description of the origin; JSON types only.
        sha256: Digest of the tensors (:func:`tensors_sha256`), independent of card and file layout.
    """

    architecture: UNetConfig
    state: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def network(self) -> UNet:
        """Build a float32 network with these weights, in evaluation mode, on the CPU."""
        net = UNet(self.architecture)
        net.load_state_dict(self.state)
        return net.eval()


class IsPublishedViT(InputError):
    """File with the published vision transformer, which is no UNet."""


def tensors_sha256(state: dict[str, Tensor]) -> str:
    """Compute a digest of names, dtypes, shapes and bytes of all tensors, in order of names.

    Args:
        state: Names to tensors.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: str | Path, state: dict[str, Tensor], architecture: UNetConfig, card: dict[str, Any]) -> str:
    """Write a weights file atomically.

    Args:
        path: The ``.safetensors`` file to write.
        state: State dict of :class:`~.unet.UNet`; dtypes are preserved.
        architecture: Architecture of the network.
        card: Description of the origin, JSON types only; ``sha256`` of the tensors is added.

    Returns:
        The tensors' sha256.

    Raises:
        NotFinite: If a tensor contains NaN or infinity.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    require_finite(state, f"weights for {path}")
    sha256 = tensors_sha256(state)
    metadata = {
        "format": FORMAT,
        "architecture": json.dumps(to_dict(architecture)),
        "card": json.dumps({**card, "sha256": sha256}),
    }
    with atomic_write(path) as partial:
        safetensors.torch.save_file(state, partial, metadata)
    return sha256


def load_weights(path: str | Path) -> Weights:
    """Read a weights file or a published ``.pth`` state dict onto the CPU.

    Objects are not unpickled.

    Args:
        path: ``.safetensors`` or published ``.pth`` file.

    Raises:
        InputError: If the file is missing, damaged, of another kind or of another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file at {path}; choose an existing .safetensors or published .pth file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_published(path)


def export_published(path: str | Path, weights: Weights) -> None:
    """Write weights as a published ``.pth`` state dict, atomically.

    Args:
        path: The ``.pth`` file to write.
        weights: Weights to write.

    Raises:
        NotFinite: If a tensor contains NaN or infinity.
    """
    require_finite(weights.state, f"weights for {path}")
    with atomic_write(path) as partial:
        torch.save(to_published(weights.state, weights.architecture), partial)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({error}); fetch or export it again") from None
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is not an anatomix weights file: expected format '{FORMAT}', found {metadata.get('format')!r}"
        )
    try:
        fields, card = json.loads(metadata["architecture"]), json.loads(metadata["card"])
        if not isinstance(fields, dict) or not isinstance(card, dict):
            raise InputError(f"expected JSON objects, found {type(fields).__name__} and {type(card).__name__}")
        architecture = from_dict(UNetConfig, fields)
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} has no readable architecture and card ({error!r}); fetch or export it again"
        ) from None
    _check_architecture(path, architecture)
    _check_fit(path, state, architecture)
    sha256 = tensors_sha256(state)
    if card.get("sha256") != sha256:
        raise InputError(
            f"{path} is damaged: its tensors have sha256 {sha256}, its card says {card.get('sha256')}; fetch it again"
        )
    check_state(path, state)
    return Weights(architecture, state, card, sha256)


def _read_published(path: Path) -> Weights:
    try:
        content = load_tensor_file(path, "expected a published state dict (.pth) or our .safetensors")
    except InputError:
        _refuse_checkpoint(path)
        raise
    if isinstance(content, dict) and _CHECKPOINT_KEY in content:
        _refuse_checkpoint(path)
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        kind = f"a dict with keys {list(content)[:3]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: expected a state dict (tensor names to tensors), found {kind}")
    check_state(path, content)
    if is_published_vit(content):
        raise IsPublishedViT(
            f"{path} is the published ViT, which computes features only, expected a UNet; use it with register "
            "--features, features, search or align --weights, or judge"
        )
    try:
        state, architecture = from_published(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: no UNet has tensors of these shapes ({str(error).splitlines()[0][:160]})") from None
    return Weights(architecture, state, {"name": path.stem, "imported_from": path.name}, tensors_sha256(state))


def _refuse_checkpoint(path: Path) -> None:
    """Raise InputError if a file is an nnU-Net checkpoint.

    Such a file contains objects. They are recognized by the bytes of their names, not unpickled.
    """
    if mentions(path, _CHECKPOINT_KEY):
        raise InputError(
            f"{path} is a checkpoint of nnU-Net, not a pretrained backbone; to initialize from it, "
            "unset ANATOMIX_WEIGHTS and train with -pretrained_weights"
        )


def _check_architecture(path: Path, architecture: UNetConfig) -> None:
    """Refuse implausibly large networks before they are built."""
    too_large = {
        name: getattr(architecture, name) for name, most in _LARGEST.items() if getattr(architecture, name) > most
    }
    if too_large or not math.isfinite(architecture.norm_eps):
        found = too_large or {"norm_eps": architecture.norm_eps}
        raise InputError(
            f"{path} describes a network with {found}, expected at most {_LARGEST} and a finite norm_eps; "
            "fetch it again"
        )


def _check_fit(path: Path, state: dict[str, Tensor], architecture: UNetConfig) -> None:
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in UNet(architecture).state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        shapes = f"expected {_shape(expected.get(name))}, found {_shape(found.get(name))}"
        raise InputError(
            f"{path} does not fit its own architecture: {len(wrong)} tensors differ, the first is '{name}' ({shapes}); "
            "fetch or export it again"
        )


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
