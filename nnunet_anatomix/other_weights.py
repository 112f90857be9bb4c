"""Any network for features: a class by its dotted path, with a state dict, as a small JSON file says (Tables 2 and 5).

Where a command takes a weights file for features (``register --features``, ``search --weights``, ``align --weights``,
``features --weights``), it takes such a file too::

    {"network": "monai.networks.nets.UNet", "state": "unet.pth", "multiple": 16,
     "kwargs": {"spatial_dims": 3, "in_channels": 1, "out_channels": 16, "channels": [16, 32, 64], "strides": [2, 2]}}

Such a file names code. Only classes of networks are called, and none that a file from the hub names, unless ``--trust-code`` is given.
"""

from __future__ import annotations

import inspect
import posixpath
import pydoc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunet_anatomix.other_network import NetworkSpec, OtherConfig, OtherNetwork
from pretraining.backbone.statistics import DEFAULT as DEFAULT_STATISTICS
from pretraining.backbone.statistics import Statistics, with_statistics
from pretraining.backbone.tensor_files import check_state, load_tensor_file
from pretraining.backbone.weights import HUB, Weights, find_weights, load_weights, named_weights, tensors_sha256
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


def feature_weights(
    name: str | None = None, *, trust_code: bool = False, statistics: Statistics = DEFAULT_STATISTICS
) -> Weights | OtherWeights:
    """Load what makes features: weights of ours, or the network that a ``.json`` file names.

    Args:
        name: As for :func:`~pretraining.backbone.weights.find_weights`.
        trust_code: Whether code that a ``.json`` file names may be called although it is no class of a network, or the file comes from
            the hub.
        statistics: What batch normalization of our weights uses, see :func:`~pretraining.backbone.statistics.with_statistics`.

    Raises:
        InputError: If there is no such file, it does not serve, or it needs trust that was not given.
    """
    address = named_weights(name)[1]
    is_remote = address.startswith(HUB)
    if is_remote and _file_of(address).endswith(".json") and not trust_code:
        raise InputError(f"{address} names code that would be called here; if you know and trust its authors, add --trust-code")
    path = find_weights(name)
    if path.suffix != ".json":
        return with_statistics(load_weights(path), statistics)
    return load_other(path, trust_code=trust_code, address=address if is_remote else None)


def load_other(path: Path, *, trust_code: bool = False, address: str | None = None) -> OtherWeights:
    """Build the network that a JSON file describes.

    Args:
        path: The file.
        trust_code: Whether to call what is no class of a network.
        address: Where the file was fetched from; its state is fetched from there too.

    Raises:
        InputError: For another JSON, a class that is no network, can't be found or built, or a state dict that is missing, damaged or
            of another network.
    """
    spec = read_json(NetworkSpec, path)
    kind = _network_class(spec, path, trust_code)
    state_path = path.parent / spec.state if address is None else find_weights(_beside(address, spec.state))
    state = _stripped(_read_state(state_path, spec.state_key), spec)
    try:
        net = kind(**spec.kwargs)
    except Exception as error:  # whatever a constructor makes of its arguments
        raise InputError(f"{path}: {spec.network} does not take these kwargs: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(net, nn.Module):
        raise InputError(f"{path}: {spec.network} makes a {type(net).__name__}, expected a torch.nn.Module")
    _load_state(net, state, spec, state_path)
    other = OtherNetwork(net, spec)
    return OtherWeights(other, tensors_sha256(other.state_dict()))


def _network_class(spec: NetworkSpec, path: Path, trust_code: bool) -> Callable[..., Any]:
    """What the dotted path names: a class of a network; something else only if it is trusted. Nothing is called here."""
    try:
        kind = pydoc.locate(spec.network)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{path}: importing {spec.network} fails: {' '.join(str(error).split())[:200]}") from None
    if not callable(kind):
        raise InputError(f"{path}: there is no {spec.network} here; install its package, or correct the dotted path")
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)) and not trust_code:
        what = "a class" if inspect.isclass(kind) else "a function"
        raise InputError(
            f"{path}: {spec.network} is {what}, expected a subclass of torch.nn.Module; if you know what it does, add --trust-code"
        )
    return kind


def _file_of(address: str) -> str:
    """``hf://owner/repo/folder/net.json@main`` without its revision."""
    return address.partition("@")[0]


def _beside(address: str, file: str) -> str:
    """The address of a file in the folder of another."""
    repo, revision = "/".join(address.split("/")[:4]), address.partition("@")[2]
    folder = posixpath.dirname(_file_of(address).removeprefix(f"{repo}/"))
    place = posixpath.normpath(posixpath.join(folder, file))
    if place.startswith(("..", "/")):
        raise InputError(f"{address}: its state lies at {file}, expected a file of the same repository")
    return f"{repo}/{place}@{revision}"


def _read_state(path: Path, key: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no state dict at {path}; correct 'state', which is relative to the JSON file")
    content = load_tensor_file(path, "save net.state_dict() alone, objects are not unpickled here")
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            raise InputError(f"{path} has no '{key}', it has {list(content)[:5] if isinstance(content, dict) else type(content).__name__}")
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        kind = f"keys {list(content)[:3]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: expected names to tensors, found {kind}; say which of them with 'state_key'")
    check_state(path, content, floats_only=False)
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
