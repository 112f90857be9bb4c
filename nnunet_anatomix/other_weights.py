"""Any network for features: a class by its dotted path, with a state dict, as a small JSON file says (Tables 2 and 5).

Where a command takes a weights file for features (``register --features``, ``search --weights``, ``align --weights``,
``features --weights``), it takes such a file too::

    {"network": "monai.networks.nets.UNet", "state": "unet.pth", "multiple": 16,
     "kwargs": {"spatial_dims": 3, "in_channels": 1, "out_channels": 16, "channels": [16, 32, 64], "strides": [2, 2]}}
"""

from __future__ import annotations

import pickle
import pydoc
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nnunet_anatomix.other_network import NetworkSpec, OtherConfig, OtherNetwork
from pretraining.backbone.weights import Weights, find_weights, load_weights, tensors_sha256
from pretraining.config import read_json
from pretraining.errors import InputError


@dataclass(frozen=True)
class OtherWeights:
    """Another network in the place of :class:`~pretraining.backbone.weights.Weights`.

    Attributes
    ----------
    net : ready for use.
    sha256 : of its tensors and of how it is used.
    """

    net: OtherNetwork
    sha256: str

    @property
    def architecture(self) -> OtherConfig:
        """What features need to know of it."""
        return self.net.config

    def network(self) -> OtherNetwork:
        """The network, in evaluation mode."""
        return self.net.eval()


def feature_weights(name: str | None = None) -> Weights | OtherWeights:
    """What makes features: weights as :func:`~pretraining.backbone.weights.find_weights` finds them, or the network of a ``.json`` file.

    Raises
    ------
    InputError
        If there is no such file, or it doesn't serve.
    """
    path = find_weights(name)
    return load_other(path) if path.suffix == ".json" else load_weights(path)


def load_other(path: Path) -> OtherWeights:
    """The network that a JSON file describes.

    Raises
    ------
    InputError
        For another JSON, a class that can't be found or built, or a state dict that is missing, damaged or of another network.
    """
    spec = read_json(NetworkSpec, path)
    state_path = path.parent / spec.state
    state = _stripped(_read_state(state_path, spec.state_key), spec)
    try:
        kind = pydoc.locate(spec.network)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{path}: importing {spec.network} fails: {' '.join(str(error).split())[:200]}") from None
    if not callable(kind):
        raise InputError(f"{path}: there is no {spec.network} here; install its package, or correct the dotted path")
    try:
        net = kind(**spec.kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{path}: {spec.network} does not take these kwargs: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(net, nn.Module):
        raise InputError(f"{path}: {spec.network} makes a {type(net).__name__}, expected a torch.nn.Module")
    _load_state(net, state, spec, state_path)
    other = OtherNetwork(net, spec)
    return OtherWeights(other, tensors_sha256(other.state_dict()))


def _read_state(path: Path, key: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no state dict at {path}; correct 'state', which is relative to the JSON file")
    try:
        content = (
            safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{path} is damaged or holds more than tensors ({reason[:120]}); save net.state_dict() alone, objects are not unpickled here"
        ) from None
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            raise InputError(f"{path} has no '{key}', it has {list(content)[:5] if isinstance(content, dict) else type(content).__name__}")
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        kind = f"keys {list(content)[:3]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: expected names to tensors, found {kind}; say which of them with 'state_key'")
    return content


def _stripped(state: dict[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    names = {name: name.removeprefix(spec.strip_prefix) for name in state}
    return {names[name]: value for name, value in state.items() if not names[name].startswith(spec.ignore)}


def _load_state(net: nn.Module, state: dict[str, Tensor], spec: NetworkSpec, path: Path) -> None:
    """Every tensor of the network but those ignored: part of it at random would go unseen."""
    wanted = {name: value.shape for name, value in net.state_dict().items() if not name.startswith(spec.ignore)}
    found = {name: value.shape for name, value in state.items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        expected, has = (tuple(shapes[wrong[0]]) if wrong[0] in shapes else "none" for shapes in (wanted, found))
        raise InputError(
            f"{path} does not fit {spec.network}: {len(wrong)} tensors differ, the first is '{wrong[0]}' (expected {expected}, "
            f"found {has}); correct kwargs or strip_prefix, or name what doesn't matter in 'ignore'"
        )
    net.load_state_dict(state, strict=False)
