"""Another network in the place of our backbone, as what makes features (Tables 2 and 5, App.

B.4.3).
"""

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

_LIVE = 0.5
"""Share of all activations of a forward pass that are held at once; U-Nets hold less, so that
estimates err to the safe side.
"""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What a JSON file says of a network."""

    network: str
    """Dotted path of its class, a subclass of torch.nn.Module that takes one channel; a function
    that makes one needs --trust-code.
    """
    state: str
    """File with its state dict (.pth, .pt or .safetensors), relative to the JSON file; read without
    unpickling objects.
    """
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Of the class."""
    layer: str | None = None
    """Name of the submodule whose output are the features; the network's own output if left out."""
    state_key: str | None = None
    """Where in the file the state dict lies, e.g. ``state_dict``."""
    strip_prefix: str = ""
    """Of the state dict's keys, e.g. ``module.``."""
    ignore: tuple[str, ...] = ()
    """Beginnings of keys that are left aside: heads that come after ``layer``, or heads of another
    task in the file.
    """
    multiple: int = 32
    """Every side of the input must be a multiple of this, voxels."""
    min_side: int | None = None
    """Least side of the input, voxels; ``multiple`` if left out."""
    max_side: int | None = None
    """Greatest side of the input, voxels; a network of one fixed size has it in ``min_side`` too.

    """
    input_range: tuple[float, float] = (0.0, 1.0)
    """What the network expects for the lower and the upper end of the clip window."""

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
        """Least side of the input, voxels."""
        return self.multiple if self.min_side is None else self.min_side


@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
    """What features need to know of a network: as :class:`~pretraining.backbone.unet.UNetConfig` has it."""

    out_channels: int
    multiple: int
    min_side: int
    max_side: int | None = None
    in_channels: int = 1
    norm: str = "own"


class ExternalNetwork(nn.Module):
    """Another network in the place of a backbone: takes intensities in [0, 1], gives features at the input's resolution.

    Args:
        net: Its state loaded.
        spec: How to use it.

    Raises:
        InputError: If it has no such layer, fails on its smallest input, or gives no (B, C, X, Y,
            Z).
    """

    def __init__(self, net: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.net, self._spec = net.eval(), spec
        # A part of the state, so that whoever tells networks apart by their tensors tells apart two
        # uses of one.
        self.register_buffer("spec", torch.tensor(list(json.dumps(asdict(spec)).encode()), dtype=torch.uint8))
        self._found: list[Any] = []
        if spec.layer is not None:
            try:
                layer = net.get_submodule(spec.layer)
            except AttributeError:
                names = [name for name, _ in net.named_modules() if name]
                raise InputError(
                    f"{spec.network} has no layer '{spec.layer}'; there are {names[:12]} and {max(0, len(names) - 12)} more"
                ) from None
            layer.register_forward_hook(lambda module, inputs, output: self._found.append(output))
        side = spec.least_side
        channels, self._values_per_voxel = self._tried(side)
        self.config = ExternalConfig(
            out_channels=channels, multiple=spec.multiple, min_side=side, max_side=spec.max_side
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features.

        Args:
            x: (B, 1, X, Y, Z) in [0, 1]; every axis a multiple of ``config.multiple``, from
                ``config.min_side`` to ``config.max_side``.

        Returns:
            (B, C, X, Y, Z); those of a coarser layer upsampled trilinearly.
        """
        if self._spec.max_side is not None and max(x.shape[2:]) > self._spec.max_side:
            raise InputError(
                f"{self._spec.network} takes at most {self._spec.max_side} voxels a side, found {tuple(x.shape[2:])}; use windows"
            )
        low, high = self._spec.input_range
        self._found.clear()
        output = self.net(x * (high - low) + low)
        if self._spec.layer is not None:
            output = self._found.pop()
        while isinstance(output, (tuple, list)) and output:
            output = output[0]  # deep supervision: the finest comes first
        if not isinstance(output, Tensor) or output.ndim != 5 or len(output) != len(x):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"{self._spec.network}: expected features (B, C, X, Y, Z), found {found}; name another layer"
            )
        if output.shape[2:] != x.shape[2:]:
            output = functional.interpolate(output.float(), size=x.shape[2:], mode="trilinear")
        return output

    def to(self, *args: Any, **kwargs: Any) -> ExternalNetwork:
        """As of any module, but its memory layout stays: parameters of other than five axes would not take ours."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    def peak_bytes(self, shape: Sequence[int], bf16: bool) -> int:
        """Estimated peak of a forward pass on (X, Y, Z) voxels, beside weights and input."""
        return int(prod(shape) * (2 if bf16 else 4) * (_LIVE * self._values_per_voxel + 2 * self.config.out_channels))

    @torch.no_grad()
    def _tried(self, side: int) -> tuple[int, float]:
        """Channels, and activations of all layers per voxel of the input."""
        counted = [0]

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            counted[0] += sum(
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
                f"{self._spec.network} fails on a cube of {side} voxels ({reason}); correct kwargs, multiple or min_side"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        return features.shape[1], counted[0] / side**3


def fit_window_side(net: FeatureNetwork, side: int) -> int:
    """The side of windows, voxels: as asked for a backbone of ours; for another network the greatest that it takes, at most ``side``."""
    if isinstance(net, UNet):
        return side
    side = min(side, net.config.max_side or side)
    return max(net.config.min_side, side // net.config.multiple * net.config.multiple)


@dataclass(frozen=True)
class ExternalWeights:
    """Another network in the place of :class:`~pretraining.backbone.weights.Weights`.

    Attributes:
        net: Ready for use.
        sha256: Of its tensors and of how it is used.
    """

    net: ExternalNetwork
    sha256: str

    @property
    def architecture(self) -> ExternalConfig:
        """What features need to know of it."""
        return self.net.config

    def network(self) -> ExternalNetwork:
        """The network, in evaluation mode."""
        return self.net.eval()


def load_feature_weights(
    name: str | None = None, *, trust_code: bool = False, statistics: Statistics = DEFAULT_STATISTICS
) -> Weights | ExternalWeights:
    """Load what makes features: weights of ours, or the network that a ``.json`` file names.

    Args:
        name: As for :func:`~pretraining.backbone.weights.find_weights`.
        trust_code: Whether code that a ``.json`` file names may be called although it is no class
            of a network, or the file comes from the hub.
        statistics: What batch normalization of our weights uses, see
            :func:`~pretraining.backbone.statistics.with_statistics`.

    Raises:
        InputError: If there is no such file, it does not serve, or it needs trust that was not
            given.
    """
    address = resolve_weights(name)[1]
    is_remote = address.startswith(HUB)
    if is_remote and _file_of(address).endswith(".json") and not trust_code:
        raise InputError(
            f"{address} names code that would be called here; if you know and trust its authors, add --trust-code"
        )
    path = find_weights(name)
    if path.suffix != ".json":
        return with_statistics(load_weights(path), statistics)
    return load_external(path, trust_code=trust_code, address=address if is_remote else None)


def load_external(path: Path, *, trust_code: bool = False, address: str | None = None) -> ExternalWeights:
    """Build the network that a JSON file describes.

    Args:
        path: The file.
        trust_code: Whether to call what is no class of a network.
        address: Where the file was fetched from; its state is fetched from there too.

    Raises:
        InputError: For another JSON, a class that is no network, can't be found or built, or a
            state dict that is missing, damaged or of another network.
    """
    spec = read_json(NetworkSpec, path)
    kind = _network_class(spec, path, trust_code)
    state_path = path.parent / spec.state if address is None else find_weights(_beside(address, spec.state))
    state = _stripped(_read_state(state_path, spec.state_key), spec)
    try:
        net = kind(**spec.kwargs)
    except Exception as error:  # whatever a constructor makes of its arguments
        raise InputError(
            f"{path}: {spec.network} does not take these kwargs: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(net, nn.Module):
        raise InputError(f"{path}: {spec.network} makes a {type(net).__name__}, expected a torch.nn.Module")
    _load_state(net, state, spec, state_path)
    other = ExternalNetwork(net, spec)
    return ExternalWeights(other, tensors_sha256(other.state_dict()))


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
            raise InputError(
                f"{path} has no '{key}', it has {list(content)[:5] if isinstance(content, dict) else type(content).__name__}"
            )
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
