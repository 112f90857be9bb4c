"""What making features needs to know of a network and its weights: ours, or another network in the place of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from pretraining.backbone.unet import UNet


class FeatureConfig(Protocol):
    """The part of :class:`~pretraining.backbone.unet.UNetConfig` that every network has."""

    @property
    def in_channels(self) -> int:
        """Input channels."""

    @property
    def out_channels(self) -> int:
        """Feature channels of the output."""

    @property
    def multiple(self) -> int:
        """Every input axis is a multiple of this many voxels."""

    @property
    def min_side(self) -> int:
        """Smallest input axis, voxels."""

    @property
    def norm(self) -> str:
        """Kind of normalization."""


class ExternalFeatureConfig(FeatureConfig, Protocol):
    """The same of a network that may be limited in size."""

    @property
    def max_side(self) -> int | None:
        """Largest input axis, voxels; None for any."""


class ExternalFeatureNetwork(Protocol):
    """A :class:`torch.nn.Module` in the place of a UNet, which estimates its memory itself."""

    @property
    def config(self) -> ExternalFeatureConfig:
        """Channels and sizes."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Features (B, C, X, Y, Z) of volumes (B, 1, X, Y, Z) in [0, 1]."""

    def peak_bytes(self, shape: Sequence[int], bf16: bool) -> int:
        """Estimated peak of a forward pass on (X, Y, Z) voxels, beside weights and input."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of any module."""

    def state_dict(self) -> dict[str, Any]:
        """As of any module."""

    def to(self, *args: Any, **kwargs: Any) -> ExternalFeatureNetwork:
        """As of any module."""

    def eval(self) -> ExternalFeatureNetwork:
        """As of any module."""


FeatureNetwork = UNet | ExternalFeatureNetwork


class FeatureWeights(Protocol):
    """Trained weights: :class:`~pretraining.backbone.weights.Weights`, or those of another network."""

    @property
    def architecture(self) -> FeatureConfig:
        """Of the network."""

    @property
    def sha256(self) -> str:
        """Tells weights apart."""

    def network(self) -> FeatureNetwork:
        """A network with these weights, in evaluation mode."""
