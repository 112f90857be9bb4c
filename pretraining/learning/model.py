"""What is trained: the backbone, a projection head per level, and the loss over them (Fig. 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.learning.contrastive import supervised_contrastive_loss
from pretraining.learning.projection import ProjectionConfig, ProjectionHead
from pretraining.learning.sampling import features_at, labels_at_level, sample_positions
from pretraining.learning.train_config import TrainConfig


def contrastive_taps(config: UNetConfig) -> tuple[str, ...]:
    """The six convolutions of the published code, for any depth: the end of the encoder, the bottleneck, the first of
    every decoder level but the finest, and the output.

    Notes
    -----
    For the paper's four poolings these are the flat layers 27, 31, 38, 45, 52 and 65. The text (App. B.3) names row 7 of
    Table 7, flat layer 24, in place of 27.
    """
    decoder = tuple(f"decoder.{level}.0" for level in range(config.poolings - 1, 0, -1))
    return (f"encoder.{config.poolings - 1}.1", "bottleneck.0", *decoder, "output")


class ContrastiveModel(nn.Module):
    """Backbone and projection heads; one label map at a time."""

    def __init__(self, backbone: UNetConfig, projection: ProjectionConfig) -> None:
        super().__init__()
        self.backbone = UNet(backbone)
        self.taps = contrastive_taps(backbone)
        shapes = self.backbone.tap_shapes()
        self.levels = tuple(shapes[tap][1] for tap in self.taps)
        self.heads = nn.ModuleList(ProjectionHead(shapes[tap][0], projection) for tap in self.taps)

    def forward(self, views: Tensor, labels: Tensor, *, config: TrainConfig, generator: Generator) -> Tensor:
        """Loss of one label map at every level.

        Parameters
        ----------
        views : (2, X, Y, Z), in [0, 1].
        labels : (X, Y, Z) integers.
        config : how positions are drawn, and the loss.
        generator : draws the positions, the same in both views; on the device of ``labels``.

        Returns
        -------
        (len(self.taps),) float32; the total loss is their mean.
        """
        features = self.backbone.features(views[:, None], self.taps)
        losses = []
        for tap, level, head in zip(self.taps, self.levels, self.heads, strict=True):
            coarse = labels_at_level(labels, level)
            drawn = sample_positions(coarse, config.positions, balanced_share=config.balanced_share, generator=generator)
            with torch.autocast(views.device.type, enabled=False):
                losses.append(
                    supervised_contrastive_loss(
                        head(features_at(features[tap], drawn).float()),
                        coarse.flatten()[drawn],
                        temperature=config.temperature,
                        balanced_denominator=config.balanced_denominator,
                        rarity_weights=config.rarity_weights,
                    )
                )
        return torch.stack(losses)
