"""What a pretraining is: one dataclass that is a JSON preset, the flags of ``train`` and the RUN/config.json of a run."""

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
    """One pretraining; the defaults are the paper's (Sec. 3, App. B.3) but for the sampling of positions."""

    seed: int = 0
    """Of the samples, the positions and the initial weights."""
    steps: int = 600_000
    """Optimizer steps."""
    label_maps: int = 1
    """Label maps a step, two views each; batch statistics and loss are per label map."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the backbone's convolutions; ``auto`` is bf16 where the device has units for it."""
    freeze_statistics_after: float = 1.0
    """Share of the training after which the backbone's batch normalization keeps its running
    averages, so that training sees the network that will be evaluated; 1: never, as in the paper;
    0: from the start, for a training that starts from trained weights.
    """
    log_every: int = 10
    """Steps between two records of the log."""
    validate_every: int = 1_000
    """Steps between two validations."""
    validation_pairs: int = 8
    """Fixed samples whose loss selects the best state."""
    save_every: int = 500
    """Steps between two checkpoints; a killed run loses at most this many."""
    average_decay: float = 0.0
    """Of a running average of the weights (EMA), which then is what is validated and exported; 0:
    none.
    """
    channels_last: bool = True
    """Memory layout of the backbone: faster convolutions and batch normalization on CPUs and GPUs.

    """
    compile: bool = False
    """Compile the backbone, which takes minutes at the start and makes a GPU's steps faster;
    results differ by rounding.
    """
    backbone: UNetConfig = field(default_factory=UNetConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        counts = ("steps", "label_maps", "log_every", "validate_every", "validation_pairs", "save_every")
        for name in counts:
            check_count(**{name: getattr(self, name)})
        check_within("[0, 1)", average_decay=self.average_decay)
        check_probability(freeze_statistics_after=self.freeze_statistics_after)
        if self.freeze_statistics_after < 1 and self.backbone.norm != "batch":
            raise ValueError(
                "freeze_statistics_after is for backbone.norm 'batch'; instance norm has no running averages, leave it at 1"
            )
        check_choice(("auto", "bf16", "fp32"), precision=self.precision)
        contrastive = self.objective.kind == "contrastive"
        window = self.engine.side - self.objective.contrastive.max_shift_vox * contrastive
        if window % self.backbone.multiple or window < self.backbone.min_side:
            less = ", less objective.contrastive.max_shift_vox," if window < self.engine.side else ""
            raise ValueError(
                f"engine.side{less} must be a multiple of {self.backbone.multiple} and at least {self.backbone.min_side} "
                f"for {self.backbone.poolings} poolings, got {window}"
            )
        if contrastive and self.objective.contrastive.max_shift_vox >= window:
            raise ValueError(
                f"objective.contrastive.max_shift_vox must be below the windows of {window} voxels that it leaves of engine.side, so that "
                f"the views meet, got {self.objective.contrastive.max_shift_vox}"
            )
