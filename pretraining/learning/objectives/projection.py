"""Projection heads: one MLP per contrastive level (App. B.2), discarded after pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pretraining.common.checks import check_count


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Settings of a head: three linear layers with batch normalization and ReLU between them.

    Notes:
        The defaults are those of the published code; the paper states a width of 128 and no final
        normalization.
    """

    width: int = 256
    """Width of the hidden layers and of the embedding."""
    final_norm: bool = True
    """Use of batch normalization without affine parameters after the last layer."""

    def __post_init__(self) -> None:
        check_count(width=self.width)


class ProjectionHead(nn.Sequential):
    """MLP from features of voxels to embeddings, not yet of unit length.

    Args:
        channels: Number of feature channels.
        config: Settings of the head.
    """

    def __init__(self, channels: int, config: ProjectionConfig) -> None:
        width = config.width
        layers: list[nn.Module] = []
        for inputs in (channels, width):
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(width, width))
        if config.final_norm:
            layers.append(nn.BatchNorm1d(width, affine=False))
        super().__init__(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, n, C) features to (B, n, width); batch statistics are over B·n."""
        return super().forward(features.flatten(0, 1)).unflatten(0, features.shape[:2])
