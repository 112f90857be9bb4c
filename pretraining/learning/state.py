"""All that changes from step to step of a training, and one step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pretraining.common.device import has_bf16_units
from pretraining.common.interruption import Stop
from pretraining.common.random import noise_generator, sample_generator
from pretraining.engine.synthesis import Pair
from pretraining.learning.checkpoint import Checkpoint, save_checkpoint
from pretraining.learning.compiled_backbone import compile_backbone
from pretraining.learning.distributed import (
    Ranks,
    average_gradients,
    average_statistics,
    mean_over_ranks,
    scale_bn_momentum,
)
from pretraining.learning.noise_scale import GradientNoise, NoiseScale
from pretraining.learning.objectives.choice import Objective, make_objective
from pretraining.learning.train_config import TrainConfig
from pretraining.learning.weight_average import WeightAverage


@dataclass
class Window:
    """What happened since the last record."""

    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    losses: list[tuple[int, Tensor]] = field(default_factory=list)
    """(sample, (terms,)) of each label map of this rank."""
    gradient_norms: list[Tensor] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    """(2,) estimates of each step, see :class:`~pretraining.learning.noise_scale.GradientNoise`."""
    stopping: Tensor | None = None
    """() float, above 0 if any rank was asked to stop."""

    @property
    def is_stopping(self) -> bool:
        """Whether any rank was asked to stop at the last step; this is where the host waits for the device."""
        return self.stopping is not None and bool(self.stopping > 0)

    @property
    def steps(self) -> int:
        """Steps since the last record."""
        return len(self.gradient_norms)

    def mean_by_term(self, ranks: Ranks) -> Tensor:
        """(terms,) means over all ranks; this is where the host waits for the device."""
        return mean_over_ranks(torch.stack([losses for _, losses in self.losses]).mean(dim=0), ranks)


class TrainingState:
    """Model, optimizer and all else that changes from step to step."""

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
        self.noise = GradientNoise(self.parameters, label_maps=config.label_maps, world=ranks.world)
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
        """The model that is validated and exported: the average, if there is one."""
        return self.average.module if self.average else self.model

    def step(self, rate: float, samples: Iterator[tuple[int, Pair]], window: Window, stop: Stop) -> None:
        """Take one step of the optimizer with a learning rate, on this rank's share of the label maps."""
        config, ranks = self.config, self.ranks
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for _ in range(config.label_maps // ranks.world):
            asked = time.monotonic()
            index, pair = next(samples)
            window.waited += time.monotonic() - asked
            with self.autocast:
                losses = losses_of(self.model, pair, index, config.seed)
            (total(self.model, losses) * ranks.world / config.label_maps).backward()
            window.losses.append((index, losses.detach()))
            self.noise.after_label_map()
        # Filled on the device: a copy from the host would wait for it.
        window.stopping = torch.full((), float(bool(stop)), device=self.device)
        single_square = self.noise.single_square()
        average_gradients(self.parameters, ranks, window.stopping, single_square)
        estimate = self.noise.estimate(single_square)
        if estimate is not None:
            window.noise.append(estimate)
        limit = config.optimizer.max_gradient_norm or math.inf
        window.gradient_norms.append(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)

    def save(self, run: Path, step: int, seconds: float, *, best: bool) -> None:
        """Bring the checkpoint to ``step`` and write it."""
        average_statistics(self.model, self.ranks)
        checkpoint = self.checkpoint
        checkpoint.step, checkpoint.seconds = step, seconds
        checkpoint.model, checkpoint.optimizer = self.model.state_dict(), self.optimizer.state_dict()
        checkpoint.average = self.average.state_dict() if self.average else None
        if self.ranks.first:
            if best:
                save_checkpoint(run / "best.pt", checkpoint)
            save_checkpoint(run / "checkpoint.pt", checkpoint)


def losses_of(model: Objective, sample: Pair, index: int, seed: int) -> Tensor:
    """(terms,) of sample ``index``; all that is drawn for it follows from its number."""
    drawn = int(torch.randint(2**62, (), generator=sample_generator(seed, index, "positions")))
    return model(sample, generator=noise_generator(drawn, sample.labels.device))


def total(model: Objective, terms: Tensor) -> Tensor:
    """() loss: the terms with their weights."""
    return sum(weight * term for weight, term in zip(model.weights, terms, strict=True))
