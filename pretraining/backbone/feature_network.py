"""Interfaces of networks and weights for feature extraction, shared with external networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from pretraining.backbone.unet import UNet


class FeatureConfig(Protocol):
    """Subset of :class:`~pretraining.backbone.unet.UNetConfig` that all networks have."""

    @property
    def in_channels(self) -> int:
        """Number of input channels."""

    @property
    def out_channels(self) -> int:
        """Number of feature channels."""

    @property
    def multiple(self) -> int:
        """Divisor of every input axis, voxels."""

    @property
    def min_side(self) -> int:
        """Smallest input axis, voxels."""

    @property
    def norm(self) -> str:
        """Type of normalization."""


class ExternalFeatureConfig(FeatureConfig, Protocol):
    """Configuration of a network with an optional size limit."""

    @property
    def max_side(self) -> int | None:
        """Largest input axis, voxels; None if unlimited."""


class ExternalFeatureNetwork(Protocol):
    """Module that replaces a UNet and estimates its own memory."""

    @property
    def config(self) -> ExternalFeatureConfig:
        """Channels and sizes."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Compute features (B, C, X, Y, Z) of volumes (B, 1, X, Y, Z) in [0, 1]."""

    def peak_bytes(self, shape: Sequence[int], bf16: bool) -> int:
        """Estimate the peak memory of a forward pass on (X, Y, Z) voxels.

        Args:
            shape: (X, Y, Z), voxels.
            bf16: Whether the network computes in bfloat16.

        Returns:
            Bytes, without weights and input.
        """

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters, like :class:`torch.nn.Module`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, like :class:`torch.nn.Module`."""

    def to(self, *args: Any, **kwargs: Any) -> ExternalFeatureNetwork:
        """Move the network, like :class:`torch.nn.Module`."""

    def eval(self) -> ExternalFeatureNetwork:
        """Set evaluation mode, like :class:`torch.nn.Module`."""


def compares_directions(config: FeatureConfig) -> bool:
    """Return whether features mean directions only, so that each voxel's are to be normalized.

    Args:
        config: Configuration of a network: true for published networks with plain instance
            normalization and for the published ViT.
    """
    return config.norm == "instance" and not getattr(config, "norm_affine", False)


FeatureNetwork = UNet | ExternalFeatureNetwork


class FeatureWeights(Protocol):
    """Weights of a backbone (:class:`~.weights.Weights`) or of an external network."""

    @property
    def architecture(self) -> FeatureConfig:
        """Configuration of the network."""

    @property
    def sha256(self) -> str:
        """Digest that identifies the weights."""

    def network(self) -> FeatureNetwork:
        """Build a network with these weights, in evaluation mode."""
