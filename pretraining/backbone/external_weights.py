"""Weights of other networks, named by a ``.json`` file next to a state dict."""

from __future__ import annotations

import inspect
import posixpath
import pydoc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretraining.backbone.external import ExternalConfig, ExternalNetwork
from pretraining.backbone.find_weights import HUB, find_weights, resolve_weights
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.backbone.published_vit import build_published_vit
from pretraining.backbone.statistics import DEFAULT as DEFAULT_STATISTICS
from pretraining.backbone.statistics import Statistics, with_statistics
from pretraining.backbone.tensor_files import check_state, load_tensor_file
from pretraining.backbone.weights import IsPublishedViT, Weights, load_weights, tensors_sha256
from pretraining.common.config import read_json
from pretraining.common.errors import InputError

COUNTER = "num_batches_tracked"
"""Suffix of a counter of batch normalization that old files lack; it affects no output."""


@dataclass(frozen=True)
class ExternalWeights:
    """Weights of another network, with the interface of :class:`~.weights.Weights`.

    Attributes:
        net: Network ready for use.
        sha256: Digest of its tensors and its description.
    """

    net: ExternalNetwork
    sha256: str

    @property
    def architecture(self) -> ExternalConfig:
        """Properties of the network for feature extraction."""
        return self.net.config

    def network(self) -> ExternalNetwork:
        """Return the network in evaluation mode."""
        return self.net.eval()


def load_feature_weights(
    name: str | None = None, *, trust_code: bool = False, statistics: Statistics = DEFAULT_STATISTICS
) -> Weights | ExternalWeights:
    """Load backbone weights, the published ViT, or a network that a ``.json`` file describes.

    Args:
        name: Name of the weights, see :func:`~pretraining.backbone.find_weights.find_weights`.
        trust_code: Whether to allow a ``.json`` file from the hub, or one that names code other
            than a network class.
        statistics: Statistics for batch normalization of backbone weights, see
            :func:`~pretraining.backbone.statistics.with_statistics`.

    Raises:
        InputError: If the file is missing or invalid, or needs ``trust_code``.
    """
    address = resolve_weights(name)[1]
    is_remote = address.startswith(HUB)
    if is_remote and _without_revision(address).endswith(".json") and not trust_code:
        raise InputError(
            f"{address} names code that would be run here; if you know and trust its authors, add --trust-code"
        )
    path = find_weights(name)
    if path.suffix != ".json":
        try:
            return with_statistics(load_weights(path), statistics)
        except IsPublishedViT:
            return _load_vit(path)
    return load_external(path, trust_code=trust_code, address=address if is_remote else None)


def load_external(path: Path, *, trust_code: bool = False, address: str | None = None) -> ExternalWeights:
    """Build the network that a JSON file describes.

    Args:
        path: JSON file with the fields of :class:`NetworkSpec`.
        trust_code: Whether to allow code other than a network class.
        address: Hub address of the file, if any; the state is fetched from the same repository.

    Raises:
        InputError: If the JSON is invalid, the class is missing, not a network or cannot be built,
            or the state dict is missing, damaged or of another network.
    """
    spec, state = read_external(path, address=address)
    net = build_network(spec, str(path), trust_code=trust_code)
    load_state(net, state, spec, str(path))
    external = ExternalNetwork(net, spec)
    return ExternalWeights(external, tensors_sha256(external.state_dict()))


def read_external(path: Path, *, address: str | None = None) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Read a JSON file and the state dict that it names; run no code.

    Args:
        path: JSON file with the fields of :class:`~.network_spec.NetworkSpec`.
        address: Hub address of the file, if any; the state is fetched from the same repository.

    Returns:
        Description of the network, and its state with the keys of the network.

    Raises:
        InputError: If the JSON is invalid, or the state dict is missing or damaged.
    """
    spec = read_json(NetworkSpec, path)
    state_path = path.parent / spec.state if address is None else find_weights(_sibling_address(address, spec.state))
    return spec, read_external_state(spec, state_path)


def read_external_state(spec: NetworkSpec, path: Path) -> dict[str, Tensor]:
    """Read a state dict, with the keys of the network and without the ignored ones.

    Args:
        spec: Description of the network.
        path: File of the state dict.

    Raises:
        InputError: If the file is missing or damaged, or holds no state dict.
    """
    return _rename_keys(_read_state(path, spec.state_key), spec)


def build_network(
    spec: NetworkSpec, where: str, *, trust_code: bool | None = None, changes: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a network with random weights.

    Args:
        spec: Description of the network.
        where: File of the description, for messages.
        trust_code: Whether to allow code other than a network class. Default: never (training).
        changes: Keyword arguments of the class that replace those of the description.

    Raises:
        InputError: If the class is missing, not a network or cannot be built.
    """
    network_class = _locate_network(spec, where, trust_code)
    try:
        net = network_class(**{**spec.kwargs, **(changes or {})})
    except Exception as error:  # constructors raise many types
        raise InputError(
            f"{where}: {spec.network} does not accept these kwargs: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{where}: expected {spec.network} to return a torch.nn.Module, found a {type(net).__name__}; "
            "correct the dotted path"
        )
    return net


def _load_vit(path: Path) -> ExternalWeights:
    state = load_tensor_file(path, "expected the published ViT")
    external = ExternalNetwork(*build_published_vit(state, str(path)))
    return ExternalWeights(external, tensors_sha256(external.state_dict()))


def _locate_network(spec: NetworkSpec, where: str, trust_code: bool | None) -> Callable[..., Any]:
    """Import the class that a dotted path names, or other code if trusted; call nothing."""
    try:
        kind = pydoc.locate(spec.network)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{where}: importing {spec.network} fails: {' '.join(str(error).split())[:200]}") from None
    if not callable(kind):
        raise InputError(f"{where}: found no {spec.network} here; install its package, or correct the dotted path")
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)) and not trust_code:
        found = "a class" if inspect.isclass(kind) else "a function"
        raise InputError(
            f"{where}: {spec.network} is {found}, expected a subclass of torch.nn.Module; "
            + ("if you know and trust it, add --trust-code" if trust_code is False else "training calls nothing else")
        )
    return kind


def _without_revision(address: str) -> str:
    """Remove the revision of an address such as ``hf://owner/repo/folder/net.json@main``."""
    return address.partition("@")[0]


def _sibling_address(address: str, file: str) -> str:
    """Return the address of a file, given relative to the folder of another file."""
    repo, revision = "/".join(address.split("/")[:4]), address.partition("@")[2]
    folder = posixpath.dirname(_without_revision(address).removeprefix(f"{repo}/"))
    sibling = posixpath.normpath(posixpath.join(folder, file))
    if sibling.startswith(("..", "/")):
        raise InputError(f"{address}: 'state' is {file}, expected a file of the same repository")
    return f"{repo}/{sibling}@{revision}"


def _read_state(path: Path, key: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no state dict at {path}; correct 'state', which is relative to the JSON file")
    content = load_tensor_file(path, "save only net.state_dict(), objects are not unpickled here")
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            found = list(content)[:5] if isinstance(content, dict) else f"a {type(content).__name__}"
            raise InputError(f"{path} has no '{key}', found {found}; correct 'state_key'")
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        kind = f"keys {list(content)[:3]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(
            f"{path}: expected names to tensors, found {kind}; set 'state_key' to the key of the state dict"
        )
    check_state(path, content, floats_only=False)
    return content


def _rename_keys(state: dict[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix(spec.strip_prefix)
        for pattern, replacement in spec.rename.items():
            name = re.sub(pattern, replacement, name)
        if not name.startswith(spec.ignore):
            renamed[name] = tensor
    return renamed


def load_state(
    net: nn.Module, state: dict[str, Tensor], spec: NetworkSpec, where: str, *, allow_new: bool = False
) -> None:
    """Load all tensors except ignored ones; a missing one is an error, never left random.

    Args:
        net: Network, changed in place.
        state: State dict with the keys of the network.
        spec: Description of the network.
        where: File of the state, for messages.
        allow_new: Whether the parts ``spec.new`` may be missing, as fine-tuning trains them.

    Raises:
        InputError: If a tensor is missing, unexpected or of another shape.
    """
    expected = {name: value.shape for name, value in net.state_dict().items() if not name.startswith(spec.ignore)}
    found = {name: value.shape for name, value in state.items()}
    may_miss = spec.new if allow_new else ()
    if wrong := sorted(
        name
        for name in expected.keys() | found.keys()
        if expected.get(name) != found.get(name)
        and not (name not in found and (name.startswith(may_miss) or name.endswith(COUNTER)))
    ):
        name = wrong[0]
        shapes = [tuple(tensors[name]) if name in tensors else "none" for tensors in (expected, found)]
        raise InputError(
            f"{where} does not fit {spec.network}: {len(wrong)} tensors differ, the first is '{name}' "
            f"(expected {shapes[0]}, found {shapes[1]}); correct kwargs, strip_prefix or rename, "
            "or list unneeded tensors in 'ignore'"
        )
    net.load_state_dict(state, strict=False)
