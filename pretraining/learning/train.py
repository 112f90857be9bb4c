"""Contrastive pretraining (Fig. 3): samples in, weights out, at home in one run folder.

RUN/config.json      the configuration
RUN/log.jsonl        losses, rate, speed and the gradient's noise scale, one record a line; the same in RUN/tensorboard
RUN/pictures         a pair and its features, at every validation
RUN/checkpoint.pt    the last state; ``resume`` goes on from here
RUN/best.pt          the state with the lowest validation loss
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import write_text
from pretraining.common.config import check_finite, to_dict
from pretraining.common.device import resolve_device
from pretraining.common.errors import Diverged, InputError, Interrupted
from pretraining.common.interruption import Stop, stop_requests
from pretraining.common.lock import hold_lock
from pretraining.engine.synthesis import Pair, check_bank
from pretraining.learning.budget import Budget, StepBudget, TimeBudget, check_minutes
from pretraining.learning.checkpoint import Checkpoint, load_or_init, save_checkpoint
from pretraining.learning.cuda_session import cuda_session
from pretraining.learning.distributed import Ranks, average_statistics, process_group
from pretraining.learning.monitor import Monitor
from pretraining.learning.objectives.choice import Objective, sample_maker
from pretraining.learning.pictures import feature_picture
from pretraining.learning.state import TrainingState, Window, losses_of, total
from pretraining.learning.train_config import TrainConfig
from pretraining.samples.ahead import prefetch_to_device
from pretraining.samples.source import StoreSource, TemplateSource, sample_source
from pretraining.samples.store import Store

log = logging.getLogger(__name__)

Source = TemplateSource | StoreSource
DIVERGED = 1.0
"""A loss that is so many times its first value above it ends the training."""


def train(
    run: Path,
    config: TrainConfig,
    given: TemplateBank | Store,
    *,
    minutes: float | None = None,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Checkpoint:
    """Pretrain a backbone, together with the other processes that torchrun has started, if any.

    Args:
        run: Folder of the run, see the module's head.
        config: What to train; ``resume`` wants the one that the run was started with.
        given: Organ templates, of which samples are made on the fly, or a store of samples.
        minutes: Wall time of the training over all sittings, in place of ``config.steps``; the
            rate's schedule ends with it. None: what the run that is resumed had, else no limit.
            Resuming with other minutes changes the rest of the schedule.
        resume: Go on from ``run``'s checkpoint if there is one.
        init_from: Weights whose backbone a new run starts from; the heads start afresh.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A CPU run is resumed bit for bit.
        workers: Processes that make or read samples; None: what suits the device, see
            :mod:`pretraining.samples.source`.

    Returns:
        The last checkpoint.

    Raises:
        InputError: If ``run`` already holds a training and ``resume`` is not set, or something
            else, or was started with another configuration or templates, or its checkpoint is
            damaged, or ``init_from`` does not fit, or there is no such device.
        Diverged: If the loss is not finite or far above where it began; the last good checkpoint
            stays.
        InUse: If another process trains in ``run``.
        Interrupted: If the process was asked to stop (SIGTERM, Ctrl-C); the state is saved.
    """
    if isinstance(given, TemplateBank):
        check_bank(given, config.engine)
    if minutes is not None:
        check_minutes(minutes)
    check_finite(config)
    place = resolve_device(device)
    make = sample_maker(config.objective)
    source = sample_source(given, config.engine, seed=config.seed, validation_count=config.validation_pairs, make=make)
    with (
        cuda_session(place),
        process_group(place) as ranks,
        stop_requests() as stop,
        hold_lock(run) if ranks.first else nullcontext(),
    ):
        if config.label_maps % ranks.world:
            raise InputError(
                f"label_maps={config.label_maps} can't be shared among {ranks.world} processes; use a multiple of it"
            )
        checkpoint = load_or_init(run, config, source.description(), resume=resume, init_from=init_from)
        if ranks.first:
            write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
            if (
                checkpoint.step and not (run / "checkpoint.pt").is_file()
            ):  # it goes on from best.pt, perhaps with no step left
                save_checkpoint(run / "checkpoint.pt", checkpoint)
        state = TrainingState(config, checkpoint, place, ranks)
        samples = prefetch_to_device(
            source.samples(
                start=checkpoint.step * config.label_maps + ranks.rank,
                stride=ranks.world,
                device=place,
                workers=workers,
            ),
            place,
        )
        budget = _budget(checkpoint, config, minutes, ranks, place)
        monitor = Monitor(run, first_step=checkpoint.step, budget=budget) if ranks.first else None
        log.info("training on %s in %s from step %d for %s", place, run, checkpoint.step, budget)
        try:
            _loop(run, state, samples, source, budget, monitor, stop)
        finally:
            if monitor:
                monitor.close()
        return state.checkpoint


def _budget(
    checkpoint: Checkpoint, config: TrainConfig, minutes: float | None, ranks: Ranks, place: torch.device
) -> Budget:
    """The length of the training: a wall time if one is asked for or the resumed run had one, else the configuration's steps."""
    before = checkpoint.minutes
    total = before if minutes is None else minutes
    if total is None:
        return StepBudget(config.steps, checkpoint)
    if checkpoint.step and total != before:
        was = f"{config.steps} steps" if before is None else f"{before:g} minutes"
        spent = checkpoint.seconds / 60
        log.warning(
            "%g minutes in place of %s, %.1f of them spent: the rest of the rate's schedule changes", total, was, spent
        )
    # On a GPU the host runs ahead, and meets the device at every record.
    return TimeBudget(total, checkpoint, ranks, steps_in_flight=config.log_every if place.type == "cuda" else 1)


def _loop(
    run: Path,
    state: TrainingState,
    samples: Iterator,
    source: Source,
    budget: Budget,
    monitor: Monitor | None,
    stop: Stop,
) -> None:
    config, checkpoint = state.config, state.checkpoint
    window = Window()
    done = checkpoint.step
    last = budget.over(done)
    while not last:
        if budget.progress(done) >= config.freeze_statistics_after:
            state.model.backbone.freeze_statistics()
        state.step(budget.rate(done, config.optimizer), samples, window, stop)
        done += 1
        last = budget.over(done)
        validating = done % config.validate_every == 0 or last or budget.needs_measurement
        # On a GPU the host runs ahead and asks only now and then; elsewhere asking costs nothing.
        asking = state.device.type != "cuda" or done % config.log_every == 0
        stopping = asking and window.is_stopping
        saving = done % config.save_every == 0 or validating or stopping
        if done % config.log_every == 0 or saving:
            # Nothing is saved of which it is not known that it is sound.
            _record(done, state, window, monitor)
            ended = time.monotonic()
            best = _validate(done, state, source, monitor) if validating else False
            if saving:
                state.save(run, done, budget.seconds, best=best)
            ending_s = time.monotonic() - ended if validating else None
            budget.measure(steps=window.steps, steps_s=ended - window.began, ending_s=ending_s)
            window = Window()
        if monitor:
            monitor.advance()
        if stopping and not last:
            raise Interrupted(
                f"asked to stop; {run} is saved at step {done}, --resume goes on until {budget} are over", stop.signal
            )


def _record(done: int, state: TrainingState, window: Window, monitor: Monitor | None) -> None:
    config, checkpoint = state.config, state.checkpoint
    terms = window.mean_by_term(state.ranks).tolist()
    loss = sum(weight * term for weight, term in zip(state.model.weights, terms, strict=True))
    finite = math.isfinite(loss)
    first = loss if checkpoint.first_loss is None else checkpoint.first_loss
    if finite:
        checkpoint.first_loss = first
    if not finite or loss > first + DIVERGED * abs(first):
        indices = [index for index, losses in window.losses if finite or not bool(losses.isfinite().all())]
        found = f"{loss:.4g}, at first it was {first:.4g}," if finite else "not finite"
        raise Diverged(
            f"the loss is {found} at step {done} (samples from {indices[0] if indices else 'another rank'} on, seed {config.seed}); "
            f"the checkpoint holds step {checkpoint.step}: lower the rate and start from its weights"
        )
    noise_scale = state.noise_scale.update(window.noise)
    if monitor:
        seconds = time.monotonic() - window.began
        speed = len(window.losses) * state.ranks.world / seconds
        monitor.record(
            done,
            loss=loss,
            terms=dict(zip(state.model.terms, terms, strict=True)),
            rate=state.optimizer.param_groups[0]["lr"],
            gradient_norm=torch.stack(window.gradient_norms).mean().item(),
            steps_per_s=speed / config.label_maps,
            samples_per_s=speed,
            waiting=window.waited / seconds,
            **({} if noise_scale is None else {"noise_scale": noise_scale}),
        )


def _validate(done: int, state: TrainingState, source: Source, monitor: Monitor | None) -> bool:
    """Loss on the fixed samples, and whether it is the lowest so far."""
    checkpoint = state.checkpoint
    average_statistics(state.eval_model, state.ranks)
    with state.autocast:
        checkpoint.validation_loss = validate(state.eval_model, source, state.config, state.device)
        if monitor:
            _, pair = next(source.validation(state.device))
            monitor.picture(done, "features", feature_picture(pair.views, _features(state.eval_model, pair)))
    if monitor:
        monitor.record(done, validation_loss=checkpoint.validation_loss)
    best = checkpoint.best_validation_loss is None or checkpoint.validation_loss < checkpoint.best_validation_loss
    if best:
        checkpoint.best_validation_loss = checkpoint.validation_loss
    return best


@torch.no_grad()
def validate(model: Objective, source: Source, config: TrainConfig, device: torch.device) -> float:
    """Mean loss over the fixed samples that training never sees."""
    model.eval()
    losses = [total(model, losses_of(model, sample, index, config.seed)) for index, sample in source.validation(device)]
    model.train()
    return torch.stack(losses).mean().item()


@torch.no_grad()
def _features(model: Objective, pair: Pair) -> Tensor:
    model.eval()
    features = model.backbone(pair.views[:, None]).float()
    model.train()
    return features
