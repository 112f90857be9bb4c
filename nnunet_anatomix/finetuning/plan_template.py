"""Plan templates: the part of a plan that does not depend on the dataset (folder ``plans``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from nnunet_anatomix.finetuning.grid_rule import GeometryConfig
from nnunet_anatomix.finetuning.memory import training_memory_gb
from nnunet_anatomix.finetuning.network import backbone_config
from nnunet_anatomix.finetuning.recipe import Recipe
from pretraining.backbone.statistics import Statistics
from pretraining.backbone.unet import UNetConfig
from pretraining.common.config import read_json
from pretraining.common.errors import InputError
from pretraining.imaging.limits import CT_WINDOW_HU

DEFAULT_ARCHITECTURE = "anatomix_unet16"
"""Architecture of the bundled weights."""


@dataclass(frozen=True, kw_only=True)
class NetworkLimits:
    """Sizes that a network accepts, and the memory of its training."""

    multiple: int
    """Divisor of every side, voxels."""
    min_side: int
    """Smallest side, voxels."""
    needed_gb: Callable[[Sequence[int], int], float]
    """Function from patch and batch to the memory of one training step, 2^30 bytes."""


@dataclass(frozen=True, kw_only=True)
class PlanTemplate:
    """Content of a template file in the folder ``plans`` (see its README)."""

    configuration: dict[str, Any]
    """Keys that replace those of nnU-Net's configuration: architecture and resampling."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    """Parameters of the rule for spacing, patch and batch."""
    ct_clip_hu: tuple[float, float] = CT_WINDOW_HU
    """Range that CT intensities are clipped to before scaling to [0, 1], Hounsfield units."""
    anatomix: Recipe = field(default_factory=Recipe)
    """Settings of the fine-tuning."""

    @property
    def backbone(self) -> UNetConfig:
        """Architecture that the pretrained weights must fit."""
        return backbone_config(self.configuration["architecture"]["arch_kwargs"])

    def limits(self, image_channels: int, classes: int) -> NetworkLimits:
        """Return the sizes and the memory of the network.

        Args:
            image_channels: Image channels of the dataset.
            classes: Output channels of the segmentation head.
        """
        backbone = dataclasses.replace(self.backbone, in_channels=image_channels)
        return NetworkLimits(
            multiple=backbone.multiple,
            min_side=backbone.min_side,
            needed_gb=lambda patch, batch: training_memory_gb(backbone, patch, batch, classes),
        )

    def with_statistics(self, statistics: Statistics) -> PlanTemplate:
        """Return the template with a network that normalizes by the given statistics.

        See :mod:`pretraining.backbone.statistics`.
        """
        if statistics == "running" or self.backbone.norm == "instance":
            return self
        architecture = self.configuration["architecture"]
        kwargs = {**architecture["arch_kwargs"], "norm": "instance", "norm_affine": True}
        return dataclasses.replace(
            self, configuration={**self.configuration, "architecture": {**architecture, "arch_kwargs": kwargs}}
        )


def load_template(name: str = DEFAULT_ARCHITECTURE) -> PlanTemplate:
    """Load an installed template.

    Args:
        name: Name of the template file, without ``.json``.

    Raises:
        InputError: If there is no such template; the message lists all.
    """
    files = [entry.name for entry in resources.files("nnunet_anatomix.plans").iterdir()]
    known = sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))
    if name not in known:
        raise InputError(f"no architecture '{name}'; there are {known}")
    with resources.as_file(resources.files("nnunet_anatomix.plans") / f"{name}.json") as path:
        return read_json(PlanTemplate, path)
