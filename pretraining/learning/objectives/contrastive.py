"""Contrastive objective: backbone, one projection head per level, and the loss (Fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from pretraining.backbone.neighbourhoods import NEIGHBOURS
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.checks import check_not_negative, check_positive, check_probability, check_within
from pretraining.common.random import noise_generator
from pretraining.engine.synthesis import Pair
from pretraining.learning.objectives.local_matching import LocalMatching, LocalMatchingConfig, average_cubes
from pretraining.learning.objectives.loss import supervised_contrastive_loss
from pretraining.learning.objectives.moved_views import CommonBox, PoseConfig, common_box, move_views
from pretraining.learning.objectives.projection import ProjectionConfig, ProjectionHead
from pretraining.learning.objectives.sampling import BlockLabel, sample_positions


def contrastive_taps(config: UNetConfig) -> tuple[str, ...]:
    """Name the convolutions whose outputs enter the loss, as in the published code.

    Args:
        config: Architecture of the backbone, of any depth.

    Returns:
        The end of the encoder, the bottleneck, the first convolution of every decoder level but the
        finest, and the output.

    Notes:
        For the paper's four poolings these are the flat layers 27, 31, 38, 45, 52 and 65. The text
        (App. B.3) names row 7 of Table 7, flat layer 24, in place of 27.
    """
    decoder = tuple(f"decoder.{level}.0" for level in range(config.poolings - 1, 0, -1))
    return (f"encoder.{config.poolings - 1}.1", "bottleneck.0", *decoder, "output")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Settings of the loss of eq. 1 and of the voxels that enter it."""

    positions: int = 512
    """Number of voxels drawn at every level, the same in both views."""
    balanced_share: float = 1.0
    """Share of the sampling probability split evenly among labels; 0: none, as published."""
    temperature: float = 0.33
    """Temperature τ of eq. 1."""
    balanced_denominator: bool = False
    """Equal weight of all labels in the loss's denominator, whatever their size."""
    rarity_weights: bool = False
    """Equal weight of all labels among the anchors, whatever their size."""
    max_shift_vox: int = 0
    """Largest shift between the two views along each axis, voxels; windows are smaller than the
    samples by as much. 0: none, as in the paper.
    """
    pose: PoseConfig = field(default_factory=PoseConfig)
    """Rotation and scale of the second view."""
    local: LocalMatchingConfig = field(default_factory=LocalMatchingConfig)
    """Additional term that matches each voxel to the same voxel in the other view."""
    block_label: BlockLabel = "centre"
    """Voxel that gives a coarse grid's block its label; corner is as in the published code."""

    def __post_init__(self) -> None:
        check_not_negative(max_shift_vox=self.max_shift_vox)
        check_probability(balanced_share=self.balanced_share)
        check_within("[2, inf)", positions=self.positions)
        check_positive(temperature=self.temperature)


class ContrastiveModel(nn.Module):
    """Backbone and projection heads with the contrastive loss of one label map."""

    def __init__(self, backbone: UNetConfig, projection: ProjectionConfig, config: ContrastiveConfig) -> None:
        super().__init__()
        self.backbone = UNet(backbone)
        self.config = config
        self.taps = contrastive_taps(backbone)
        self.terms = (*self.taps, "local matching") if config.local.weight else self.taps
        self.weights = (1 / len(self.taps),) * len(self.taps) + ((config.local.weight,) if config.local.weight else ())
        shapes = self.backbone.tap_shapes()
        if config.local.weight and (
            unknown := [level for level in config.local.levels if config.local.tap(level) not in shapes]
        ):
            raise ValueError(f"local.levels must be below the backbone's {backbone.poolings} poolings, got {unknown}")
        self.levels = tuple(shapes[tap][1] for tap in self.taps)
        self.heads = nn.ModuleList(ProjectionHead(shapes[tap][0], projection) for tap in self.taps)
        self.local = LocalMatching(config.local) if config.local.weight else None

    def forward(self, sample: Pair, *, generator: Generator) -> Tensor:
        """Compute the loss of one label map at every level.

        Args:
            sample: Two views, (2, X, Y, Z) in [0, 1], of labels (X, Y, Z).
            generator: Random generator of the positions, the same in both views; on the device of
                the labels.

        Returns:
            (len(self.terms),) float32; the total loss is their sum with ``self.weights``.
        """
        config = self.config
        # Draw the windows on the host, which knows the generator's seed without waiting for the
        # device.
        moved = move_views(sample, config.max_shift_vox, noise_generator(generator.initial_seed(), "cpu"), config.pose)
        matched = config.local.grids if self.local else ()
        taps = tuple(dict.fromkeys((*self.taps, *(tap for tap, _, _ in matched))))
        device_type = moved.views.device.type
        autocast = torch.autocast(
            device_type, torch.get_autocast_dtype(device_type), enabled=torch.is_autocast_enabled(device_type)
        )
        if any(tap == "output" for tap, _, _ in matched) or config.positions * NEIGHBOURS > moved.labels.numel():
            features, last = self.backbone.features(moved.views[:, None], taps), None
        else:  # the output is computed at the drawn voxels only
            features, last = self.backbone.features_before_output(moved.views[:, None], taps)
        boxes = {
            level: common_box(moved, level, config.block_label)
            for level in dict.fromkeys((*self.levels, *(level + halvings for _, level, halvings in matched)))
        }

        def read(tap: str, box: CommonBox, drawn: Tensor) -> Tensor:
            if last is None or tap != "output":
                return box.features_of_both(features[tap], drawn)
            with autocast:
                return self.backbone.output_at(last, box.positions_in_both(drawn))

        losses = []
        with torch.autocast(device_type, enabled=False):
            for tap, level, head in zip(self.taps, self.levels, self.heads, strict=True):
                box = boxes[level]
                drawn = sample_positions(
                    box.labels, config.positions, balanced_share=config.balanced_share, generator=generator
                )
                losses.append(
                    supervised_contrastive_loss(
                        head(read(tap, box, drawn).float()),
                        box.labels.flatten()[drawn],
                        temperature=config.temperature,
                        balanced_denominator=config.balanced_denominator,
                        rarity_weights=config.rarity_weights,
                    )
                )
            if self.local:
                losses.append(
                    self.local(
                        [boxes[level + halvings] for _, level, halvings in matched],
                        [average_cubes(features[tap], halvings) for tap, _, halvings in matched],
                        generator,
                    )
                )
        return torch.stack(losses)
