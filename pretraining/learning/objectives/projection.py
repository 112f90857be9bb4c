"""Projection heads: one small MLP per contrastive level (App. B.2); thrown away after pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pretraining.common.checks import check_count


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """One head: three fully connected layers with batch normalization and ReLU between them.

    Notes:
        The defaults are those of the published code; the paper states a width of 128 and no final
        normalization.
    """

    width: int = 256
    """Of the hidden layers and of the embedding."""
    final_norm: bool = True
    """Batch normalization without affine parameters after the last layer."""

    def __post_init__(self) -> None:
        check_count(width=self.width)


class ProjectionHead(nn.Sequential):
    """Features of voxels → embeddings, not yet of unit length."""

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
        """(B, n, C) → (B, n, width); batch statistics are taken over B·n."""
        return super().forward(features.flatten(0, 1)).unflatten(0, features.shape[:2])
