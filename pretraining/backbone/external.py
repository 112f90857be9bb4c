"""Feature extraction with other networks than this backbone (Tables 2 and 5, App. B.4.3)."""

from __future__ import annotations

import inspect
import json
import posixpath
import pydoc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.backbone.feature_network import FeatureNetwork
from pretraining.backbone.statistics import DEFAULT as DEFAULT_STATISTICS
from pretraining.backbone.statistics import Statistics, with_statistics
from pretraining.backbone.tensor_files import check_state, load_tensor_file
from pretraining.backbone.unet import UNet
from pretraining.backbone.weights import HUB, Weights, find_weights, load_weights, resolve_weights, tensors_sha256
from pretraining.common.checks import check_count
from pretraining.common.config import read_json
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
            out_channels=channels, multiple=spec.multiple, min_side=side, max_side=spec.max_side
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
    """Load backbone weights, or another network that a ``.json`` file describes.

    Args:
        name: Name of the weights, see :func:`~pretraining.backbone.weights.find_weights`.
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
        return with_statistics(load_weights(path), statistics)
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
    spec = read_json(NetworkSpec, path)
    network_class = _locate_network(spec, path, trust_code)
    state_path = path.parent / spec.state if address is None else find_weights(_sibling_address(address, spec.state))
    state = _rename_keys(_read_state(state_path, spec.state_key), spec)
    try:
        net = network_class(**spec.kwargs)
    except Exception as error:  # constructors raise many types
        raise InputError(
            f"{path}: {spec.network} does not accept these kwargs: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{path}: expected {spec.network} to return a torch.nn.Module, found a {type(net).__name__}; "
            "correct the dotted path"
        )
    _load_state(net, state, spec, state_path)
    external = ExternalNetwork(net, spec)
    return ExternalWeights(external, tensors_sha256(external.state_dict()))


def _locate_network(spec: NetworkSpec, path: Path, trust_code: bool) -> Callable[..., Any]:
    """Import the class that a dotted path names, or other code if trusted; call nothing."""
    try:
        kind = pydoc.locate(spec.network)
    except pydoc.ErrorDuringImport as error:
        raise InputError(f"{path}: importing {spec.network} fails: {' '.join(str(error).split())[:200]}") from None
    if not callable(kind):
        raise InputError(f"{path}: found no {spec.network} here; install its package, or correct the dotted path")
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)) and not trust_code:
        found = "a class" if inspect.isclass(kind) else "a function"
        raise InputError(
            f"{path}: {spec.network} is {found}, expected a subclass of torch.nn.Module; "
            "if you know and trust it, add --trust-code"
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
    names = {name: name.removeprefix(spec.strip_prefix) for name in state}
    return {names[name]: value for name, value in state.items() if not names[name].startswith(spec.ignore)}


def _load_state(net: nn.Module, state: dict[str, Tensor], spec: NetworkSpec, path: Path) -> None:
    """Load all tensors except ignored ones; a missing one is an error, never left random."""
    expected = {name: value.shape for name, value in net.state_dict().items() if not name.startswith(spec.ignore)}
    found = {name: value.shape for name, value in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        name = wrong[0]
        shapes = [tuple(tensors[name]) if name in tensors else "none" for tensors in (expected, found)]
        raise InputError(
            f"{path} does not fit {spec.network}: {len(wrong)} tensors differ, the first is '{name}' "
            f"(expected {shapes[0]}, found {shapes[1]}); correct kwargs or strip_prefix, "
            "or list unneeded tensors in 'ignore'"
        )
    net.load_state_dict(state, strict=False)
