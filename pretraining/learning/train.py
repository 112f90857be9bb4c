"""Contrastive pretraining (Fig. 3): samples in, weights out, at home in one run folder.

RUN/config.json      the configuration
RUN/log.jsonl        losses, rate and speed, one record a line
RUN/checkpoint.pt    the last state; ``resume`` goes on from here
RUN/best.pt          the state with the lowest validation loss
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pretraining.atomic import write_text
from pretraining.backbone.transfer import transfer
from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.config import differences, from_dict, to_dict
from pretraining.engine.seeds import noise_generator, sample_generator
from pretraining.engine.synthesis import EngineConfig, Pair
from pretraining.engine.templates import TemplateBank
from pretraining.errors import InputError
from pretraining.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pretraining.learning.initialization import build
from pretraining.learning.model import ContrastiveModel
from pretraining.learning.monitor import Monitor
from pretraining.learning.projection import ProjectionConfig
from pretraining.learning.schedule import OptimizerConfig, rate_at
from pretraining.precision import has_bf16_units
from pretraining.samples.source import StoreSource, TemplateSource, sample_source
from pretraining.samples.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One pretraining; the defaults are the paper's (Sec. 3, App. B.3) but for the sampling of positions."""

    seed: int = 0
    """Of the samples, the positions and the initial weights."""
    steps: int = 600_000
    """Optimizer steps."""
    label_maps: int = 1
    """Label maps a step, two views each; batch statistics and loss are per label map."""
    positions: int = 512
    """Voxels drawn at every level, the same in both views."""
    balanced: bool = True
    """Draw positions label-balanced; false is the published, uniform way."""
    temperature: float = 0.33
    """τ of eq. 1."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the backbone's convolutions; ``auto`` is bf16 where the device has units for it."""
    log_every: int = 10
    """Steps between two records of the log."""
    validate_every: int = 1_000
    """Steps between two validations."""
    validation_pairs: int = 8
    """Fixed samples whose loss selects the best state."""
    save_every: int = 500
    """Steps between two checkpoints; a killed run loses at most this many."""
    backbone: UNetConfig = field(default_factory=UNetConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        counts = ("steps", "label_maps", "positions", "log_every", "validate_every", "validation_pairs", "save_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.positions < 2 or self.temperature <= 0:
            raise ValueError(f"need positions >= 2 and temperature > 0, got {self.positions} and {self.temperature}")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is 'auto', 'bf16' or 'fp32', got {self.precision!r}")
        if self.engine.side % self.backbone.multiple or self.engine.side < self.backbone.min_side:
            raise ValueError(
                f"engine.side must be a multiple of {self.backbone.multiple} and at least {self.backbone.min_side} "
                f"for {self.backbone.poolings} poolings, got {self.engine.side}"
            )


def train(
    run: Path,
    config: TrainConfig,
    samples_from: TemplateBank | Store,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Checkpoint:
    """Pretrain a backbone.

    Parameters
    ----------
    run : folder of the run, see the module's head.
    config : what to train; ``resume`` wants the one that the run was started with.
    samples_from : organ templates, of which samples are made on the fly, or a store of samples.
    resume : go on from ``run``'s checkpoint if there is one.
    init_from : weights whose backbone a new run starts from; the heads start afresh.
    device : ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A CPU run is resumed bit for bit.
    workers : processes that make samples on the CPU; 0 makes them on ``device``, in this process. By default 1 on a CPU and 0
        on a GPU. Samples depend on the type of device that makes them, not on the number of processes. Stored samples are varied on
        ``device``, however many processes read them.

    Returns
    -------
    The last checkpoint.

    Raises
    ------
    InputError
        If ``run`` already holds a training and ``resume`` is not set, or was started with another configuration or
        samples, or the store's engine is not that of ``config``, or ``init_from`` does not fit.
    FloatingPointError
        If the loss is not finite; the last checkpoint stays.
    """
    place = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    checkpoint_path = run / "checkpoint.pt"
    started = checkpoint_path.is_file()
    if started and not resume:
        raise InputError(f"{run} already holds a training; add --resume to go on with it or name another folder")
    if started and init_from:
        raise InputError(f"{run} already holds a training; --init-from is for new ones")
    source = sample_source(samples_from, config.engine, seed=config.seed, validation_count=config.validation_pairs)
    checkpoint = load_checkpoint(checkpoint_path) if started else _first_checkpoint(config, source, init_from)
    if changed := differences(from_dict(TrainConfig, checkpoint.config), config):
        raise InputError(f"{run} was started with another configuration ({'; '.join(changed)}); resume with the old one")
    if checkpoint.templates != (found := source.description()):
        raise InputError(f"{run} was started with other templates ({checkpoint.templates}, now {found}); name those")
    write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")

    model = ContrastiveModel(config.backbone, config.projection)
    model.load_state_dict(checkpoint.model)
    model.to(place, memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optimizer.rate,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        weight_decay=config.optimizer.weight_decay,
        fused=place.type == "cuda",
    )
    if checkpoint.optimizer:
        optimizer.load_state_dict(checkpoint.optimizer)
    bf16 = has_bf16_units(place) if config.precision == "auto" else config.precision == "bf16"
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=bf16)
    samples = source.samples(start=checkpoint.step * config.label_maps, device=place, workers=workers)
    monitor = Monitor(run / "log.jsonl", first_step=checkpoint.step, steps=config.steps)
    log.info("training on %s in %s from step %d to %d", place, run, checkpoint.step, config.steps)

    began, began_at = time.monotonic(), checkpoint.seconds
    window: list[Tensor] = []
    window_began, waited = time.monotonic(), 0.0
    try:
        for step in range(checkpoint.step, config.steps):
            rate = rate_at(step, config.steps, config.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for _ in range(config.label_maps):
                asked = time.monotonic()
                index, pair = next(samples)
                waited += time.monotonic() - asked
                pair = Pair(*(part.to(place, non_blocking=True) for part in pair))
                with autocast:
                    losses = _losses(model, pair, index, config)
                (losses.mean() / config.label_maps).backward()
                window.append(losses.detach())
            optimizer.step()
            optimizer.zero_grad()

            done, last = step + 1, step + 1 == config.steps
            if done % config.log_every == 0 or last:
                by_level = torch.stack(window).mean(dim=0).tolist()
                if not all(map(math.isfinite, by_level)):
                    first = (done * config.label_maps) - len(window)
                    raise FloatingPointError(
                        f"the loss is not finite at step {done} (samples {first} to {index} of seed {config.seed}); "
                        f"{checkpoint_path} holds step {checkpoint.step}: lower the rate and start from its weights"
                    )
                seconds = time.monotonic() - window_began
                speed = len(window) / config.label_maps / seconds
                monitor.record(
                    done,
                    loss=sum(by_level) / len(by_level),
                    by_level=[round(value, 4) for value in by_level],
                    rate=rate,
                    steps_per_s=speed,
                    waiting=waited / seconds,
                )
                window.clear()
                window_began, waited = time.monotonic(), 0.0
            best = False
            if done % config.validate_every == 0 or last:
                with autocast:
                    checkpoint.validation_loss = validate(model, source, config, place)
                monitor.record(done, validation_loss=checkpoint.validation_loss)
                best = checkpoint.best_validation_loss is None or checkpoint.validation_loss < checkpoint.best_validation_loss
                if best:
                    checkpoint.best_validation_loss = checkpoint.validation_loss
            if done % config.save_every == 0 or best or last:
                checkpoint.step = done
                checkpoint.model = model.state_dict()
                checkpoint.optimizer = optimizer.state_dict()
                checkpoint.seconds = began_at + time.monotonic() - began
                if best:
                    save_checkpoint(run / "best.pt", checkpoint)
                save_checkpoint(checkpoint_path, checkpoint)
            monitor.advance()
    finally:
        monitor.close()
    return checkpoint


def validate(model: ContrastiveModel, source: TemplateSource | StoreSource, config: TrainConfig, device: torch.device) -> float:
    """Mean contrastive loss over ``config.validation_pairs`` fixed samples that training never sees."""
    model.eval()
    losses = []
    with torch.no_grad():
        for index, pair in source.validation(device):
            losses.append(_losses(model, pair, index, config).mean())
    model.train()
    return torch.stack(losses).mean().item()


def _first_checkpoint(config: TrainConfig, source: TemplateSource | StoreSource, init_from: Path | None) -> Checkpoint:
    model = build(lambda: ContrastiveModel(config.backbone, config.projection), sample_generator(config.seed, 0, "initial weights"))
    if init_from:
        log.info("%s: %s", init_from, transfer(load_weights(init_from).state, model.backbone))
    return Checkpoint(step=0, config=to_dict(config), templates=source.description(), model=model.state_dict(), optimizer={})


def _losses(model: ContrastiveModel, pair: Pair, index: int, config: TrainConfig) -> Tensor:
    seed = int(torch.randint(2**62, (), generator=sample_generator(config.seed, index, "positions")))
    return model(
        pair.views,
        pair.labels,
        positions=config.positions,
        balanced=config.balanced,
        temperature=config.temperature,
        generator=noise_generator(seed, pair.labels.device),
    )
