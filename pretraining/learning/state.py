"""State of a training: model, optimizer, running averages and checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from pretraining.common.device import has_bf16_units
from pretraining.learning.checkpoint import Checkpoint, save_checkpoint
from pretraining.learning.compiled_backbone import compile_backbone
from pretraining.learning.distributed import Ranks, average_statistics, scale_bn_momentum
from pretraining.learning.noise_scale import GradientNoise, NoiseScale
from pretraining.learning.objectives.choice import Objective, make_objective
from pretraining.learning.train_config import TrainConfig
from pretraining.learning.weight_average import WeightAverage


class TrainingState:
    """Model, optimizer and running averages of one training, restored from its checkpoint.

    Args:
        config: Configuration of the training.
        checkpoint: State to continue from; :meth:`save` updates it in place.
        device: Device of the training.
        ranks: Processes that train together.
    """

    def __init__(self, config: TrainConfig, checkpoint: Checkpoint, device: torch.device, ranks: Ranks) -> None:
        self.config, self.checkpoint, self.device, self.ranks = config, checkpoint, device, ranks
        model = make_objective(config.objective, config.backbone)
        model.load_state_dict(checkpoint.model)
        layout = torch.channels_last_3d if config.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=layout).train()
        scale_bn_momentum(self.model, ranks)
        self.parameters = list(self.model.parameters())
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.rate,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            fused=device.type == "cuda",
        )
        if checkpoint.optimizer:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        self.gradient_noise = GradientNoise(self.parameters, label_maps=config.label_maps, world=ranks.world)
        self.noise_scale = NoiseScale()
        self.average: WeightAverage[Objective] | None = None
        if config.average_decay:
            self.average = WeightAverage(self.model, decay=config.average_decay, state=checkpoint.average)
        if config.compile:
            for model in (self.model, *([self.eval_model] if self.average else [])):
                compile_backbone(model.backbone)
        bf16 = has_bf16_units(device) if config.precision == "auto" else config.precision == "bf16"
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    @property
    def eval_model(self) -> Objective:
        """Model that is validated and exported: the average of the weights if there is one."""
        return self.average.module if self.average else self.model

    def save(self, run: Path, step: int, seconds: float, *, best: bool) -> None:
        """Update the checkpoint and write it to the run folder.

        Args:
            run: Folder of the run.
            step: Number of steps done.
            seconds: Wall time spent training, over all sessions, seconds.
            best: Write ``best.pt``, too.
        """
        average_statistics(self.model, self.ranks)
        checkpoint = self.checkpoint
        checkpoint.step, checkpoint.seconds = step, seconds
        checkpoint.model, checkpoint.optimizer = self.model.state_dict(), self.optimizer.state_dict()
        checkpoint.average = self.average.state_dict() if self.average else None
        if self.ranks.first:
            if best:
                save_checkpoint(run / "best.pt", checkpoint)
            save_checkpoint(run / "checkpoint.pt", checkpoint)
