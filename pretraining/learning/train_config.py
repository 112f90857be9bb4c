"""Configuration of a pretraining: JSON preset, flags of ``train`` and RUN/config.json in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pretraining.backbone.unet import UNetConfig
from pretraining.common.checks import check_choice, check_count, check_probability, check_within
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.schedule import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of one pretraining.

    The defaults are the paper's (Sec. 3, App. B.3), except for the sampling of positions.
    """

    seed: int = 0
    """Seed of the samples, the positions and the initial weights."""
    steps: int = 600_000
    """Number of optimizer steps."""
    label_maps: int = 1
    """Label maps per step, two views each; batch statistics and loss are per label map."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the backbone's convolutions; auto is bf16 if the device has units for it."""
    freeze_statistics_after: float = 1.0
    """Share of the training after which batch normalization uses its running averages, as in
    evaluation; 1: never, as in the paper; 0: from the start, for trained initial weights.
    """
    log_every: int = 10
    """Number of steps between two records of the log."""
    validate_every: int = 1_000
    """Number of steps between two validations."""
    validation_pairs: int = 8
    """Number of fixed samples whose loss selects the best state."""
    save_every: int = 500
    """Number of steps between two checkpoints; a killed run loses at most this many."""
    average_decay: float = 0.0
    """Decay of a running average of the weights (EMA), to be validated and exported; 0: none."""
    channels_last: bool = True
    """Channels-last layout of the backbone: faster convolutions and batch normalization."""
    compile: bool = False
    """Compilation of the backbone: minutes at the start, faster steps on a GPU."""
    backbone: UNetConfig = field(default_factory=UNetConfig)
    """Architecture of the backbone."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Objective and its settings."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Synthesis of the samples."""

    def __post_init__(self) -> None:
        counts = ("steps", "label_maps", "log_every", "validate_every", "validation_pairs", "save_every")
        for name in counts:
            check_count(**{name: getattr(self, name)})
        check_within("[0, 1)", average_decay=self.average_decay)
        check_probability(freeze_statistics_after=self.freeze_statistics_after)
        if self.freeze_statistics_after < 1 and self.backbone.norm != "batch":
            raise ValueError(
                "freeze_statistics_after is for backbone.norm 'batch'; "
                "instance norm has no running averages, leave it at 1"
            )
        check_choice(("auto", "bf16", "fp32"), precision=self.precision)
        contrastive = self.objective.kind == "contrastive"
        window = self.engine.side - self.objective.contrastive.max_shift_vox * contrastive
        if window % self.backbone.multiple or window < self.backbone.min_side:
            less = ", less objective.contrastive.max_shift_vox," if window < self.engine.side else ""
            raise ValueError(
                f"engine.side{less} must be a multiple of {self.backbone.multiple} and at least "
                f"{self.backbone.min_side} for {self.backbone.poolings} poolings, got {window}"
            )
        if contrastive and self.objective.contrastive.max_shift_vox >= window:
            raise ValueError(
                f"objective.contrastive.max_shift_vox must be below the windows of {window} voxels that it leaves of "
                f"engine.side, so that the views overlap, got {self.objective.contrastive.max_shift_vox}"
            )
