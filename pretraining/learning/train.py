"""Contrastive pretraining (Fig. 3), from samples to weights in one run folder.

Read from top to bottom: :func:`train` sets a run up, :func:`training_loop` repeats
:func:`training_step`, and :func:`validate` selects the best state.

RUN/config.json      configuration
RUN/log.jsonl        losses, learning rate, speed and gradient noise scale, one record per line
RUN/tensorboard      the same numbers for TensorBoard
RUN/pictures         a pair of views and its features, at every validation
RUN/checkpoint.pt    the last state, from which ``resume`` continues
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

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import write_text
from pretraining.common.config import check_finite, to_dict
from pretraining.common.device import resolve_device
from pretraining.common.errors import Diverged, InputError, Interrupted
from pretraining.common.interruption import Stop, stop_requests
from pretraining.common.lock import hold_lock
from pretraining.engine.synthesis import Pair, check_bank
from pretraining.learning.budget import Budget, check_minutes, make_budget
from pretraining.learning.checkpoint import Checkpoint, load_or_init, save_checkpoint
from pretraining.learning.cuda_session import cuda_session
from pretraining.learning.distributed import average_gradients, average_statistics, process_group
from pretraining.learning.metrics import Metrics
from pretraining.learning.monitor import Monitor
from pretraining.learning.objectives.choice import Objective, compute_losses, sample_maker, total_loss
from pretraining.learning.pictures import render_features
from pretraining.learning.state import TrainingState
from pretraining.learning.train_config import TrainConfig
from pretraining.samples.ahead import prefetch_to_device
from pretraining.samples.source import StoreSource, TemplateSource, sample_source
from pretraining.samples.store import Store

log = logging.getLogger(__name__)

Source = TemplateSource | StoreSource
MAX_LOSS_RISE = 1.0
"""Rise of the loss over its first value, relative to that value, that ends the training."""


def train(
    run: Path,
    config: TrainConfig,
    data: TemplateBank | Store,
    *,
    minutes: float | None = None,
    resume: bool = False,
    init_from: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Checkpoint:
    """Pretrain a backbone, together with the other processes that torchrun has started, if any.

    Args:
        run: Folder of the run; the module's docstring lists its files.
        config: Configuration; ``resume`` needs the one that the run was started with.
        data: Organ templates, from which samples are made on the fly, or a store of samples.
        minutes: Wall time of the training over all sessions, in place of ``config.steps``; the
            learning rate schedule ends with it. Default: that of the resumed run, else no limit.
            Resuming with other minutes changes the rest of the schedule.
        resume: Continue from ``run``'s checkpoint if there is one.
        init_from: Weights for the backbone of a new run; its heads are initialized randomly.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Resuming on a CPU is exact, bit for bit.
        workers: Processes that make or read samples. Default: depends on the device, see
            :mod:`pretraining.samples.source`.

    Returns:
        The last checkpoint.

    Raises:
        InputError: If ``run`` holds a training and ``resume`` is not set; if ``run`` holds other
            files; if it was started with another configuration or other templates; if its
            checkpoint is damaged; if ``init_from`` does not fit; if the device does not exist.
        Diverged: If the loss is not finite or rises far above its first value; the last good
            checkpoint stays.
        InUse: If another process trains in ``run``.
        Interrupted: If the process was asked to stop (SIGTERM, Ctrl-C); the state is saved.
    """
    if isinstance(data, TemplateBank):
        check_bank(data, config.engine)
    if minutes is not None:
        check_minutes(minutes)
    check_finite(config)
    torch_device = resolve_device(device)
    make = sample_maker(config.objective)
    source = sample_source(data, config.engine, seed=config.seed, validation_count=config.validation_pairs, make=make)
    with (
        cuda_session(torch_device),
        process_group(torch_device) as ranks,
        stop_requests() as stop,
        hold_lock(run) if ranks.first else nullcontext(),
    ):
        if config.label_maps % ranks.world:
            raise InputError(
                f"label_maps={config.label_maps} can't be shared among {ranks.world} processes; use a multiple of it"
            )
        checkpoint = load_or_init(run, config, source.describe(), resume=resume, init_from=init_from)
        if ranks.first:
            write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
            if checkpoint.step and not (run / "checkpoint.pt").is_file():
                # The run resumes from best.pt, perhaps with no step left that would save it.
                save_checkpoint(run / "checkpoint.pt", checkpoint)
        state = TrainingState(config, checkpoint, torch_device, ranks)
        first_sample = checkpoint.step * config.label_maps + ranks.rank
        samples = source.samples(start=first_sample, stride=ranks.world, device=torch_device, workers=workers)
        budget = make_budget(checkpoint, config, minutes, ranks, torch_device)
        monitor = Monitor(run, first_step=checkpoint.step, budget=budget) if ranks.first else None
        log.info("training on %s in %s from step %d for %s", torch_device, run, checkpoint.step, budget)
        try:
            training_loop(run, state, prefetch_to_device(samples, torch_device), source, budget, monitor, stop)
        finally:
            if monitor:
                monitor.close()
        return state.checkpoint


def training_loop(
    run: Path,
    state: TrainingState,
    samples: Iterator[tuple[int, Pair]],
    source: Source,
    budget: Budget,
    monitor: Monitor | None,
    stop: Stop,
) -> None:
    """Take steps until ``budget`` is used up; log, validate and save at their intervals.

    Args:
        run: Folder of the run.
        state: State of the training; updated in place.
        samples: Numbered training samples of this rank, on the device.
        source: Source of the validation samples.
        budget: Length of the training and its learning rate.
        monitor: Log of the run; None on all ranks but the first.
        stop: Request to stop, which ends the training after the current step.
    """
    config, metrics = state.config, Metrics()
    step = state.checkpoint.step
    over = budget.over(step)
    while not over:
        if budget.progress(step) >= config.freeze_statistics_after:
            state.model.backbone.freeze_statistics()
        training_step(state, samples, metrics, budget.rate(step, config.optimizer), stop)
        step += 1
        over = budget.over(step)

        log_due = step % config.log_every == 0
        validation_due = step % config.validate_every == 0 or over or budget.needs_measurement
        # Reading this flag synchronizes with the GPU: do it only at log steps there.
        stopping = (log_due or state.device.type != "cuda") and metrics.stop_requested
        save_due = step % config.save_every == 0 or validation_due or stopping
        if log_due or save_due:
            # Check the loss before saving, so that a diverged state is never checkpointed.
            _check_and_log(step, state, metrics, monitor)
            steps_ended = time.monotonic()
            best = _validate_and_log(step, state, source, monitor) if validation_due else False
            if save_due:
                state.save(run, step, budget.seconds, best=best)
            ending_s = time.monotonic() - steps_ended if validation_due else None
            budget.measure(steps=metrics.steps, steps_s=steps_ended - metrics.began, ending_s=ending_s)
            metrics = Metrics()
        if monitor:
            monitor.advance()
        if stopping and not over:
            raise Interrupted(
                f"asked to stop; {run} is saved at step {step}, use --resume to continue until {budget} are over",
                stop.signal,
            )


def training_step(
    state: TrainingState, samples: Iterator[tuple[int, Pair]], metrics: Metrics, rate: float, stop: Stop
) -> None:
    """Take one optimizer step on this rank's share of the label maps, without waiting for the GPU.

    Args:
        state: State of the training; updated in place.
        samples: Numbered training samples of this rank, on the device.
        metrics: Measurements to which those of this step are added.
        rate: Learning rate of this step.
        stop: Request to stop, which all ranks learn of.
    """
    config, model, ranks = state.config, state.model, state.ranks
    for group in state.optimizer.param_groups:
        group["lr"] = rate

    for _ in range(config.label_maps // ranks.world):
        requested = time.monotonic()
        index, sample = next(samples)
        metrics.waited_s += time.monotonic() - requested
        with state.autocast:
            losses = compute_losses(model, sample, index, config.seed)
        (total_loss(model, losses) * ranks.world / config.label_maps).backward()
        metrics.losses.append((index, losses.detach()))
        state.gradient_noise.add_label_map()

    # Filled on the device, because a copy from the host would wait for the device.
    metrics.stop_flag = torch.full((), float(bool(stop)), device=state.device)
    single_square = state.gradient_noise.take_single_square()
    average_gradients(state.parameters, ranks, metrics.stop_flag, single_square)
    noise = state.gradient_noise.estimate(single_square)
    if noise is not None:
        metrics.noise.append(noise)

    max_norm = config.optimizer.max_gradient_norm or math.inf
    metrics.gradient_norms.append(torch.nn.utils.clip_grad_norm_(state.parameters, max_norm))
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.average:
        state.average.update_parameters(model)


def _check_and_log(step: int, state: TrainingState, metrics: Metrics, monitor: Monitor | None) -> None:
    """Raise Diverged if the loss is too high, else log the metrics; synchronizes with the GPU."""
    config, model, checkpoint = state.config, state.model, state.checkpoint
    terms = metrics.mean_losses(state.ranks).tolist()
    loss = sum(weight * term for weight, term in zip(model.weights, terms, strict=True))
    finite = math.isfinite(loss)
    first = loss if checkpoint.first_loss is None else checkpoint.first_loss
    if finite:
        checkpoint.first_loss = first
    if not finite or loss > first + MAX_LOSS_RISE * abs(first):
        indices = [index for index, losses in metrics.losses if finite or not bool(losses.isfinite().all())]
        found = f"{loss:.4g}, at first it was {first:.4g}," if finite else "not finite"
        raise Diverged(
            f"the loss is {found} at step {step} "
            f"(from {f'sample {indices[0]}' if indices else 'a sample of another rank'} on, seed {config.seed}); "
            f"the checkpoint holds step {checkpoint.step}: lower the rate and start from its weights"
        )
    noise_scale = state.noise_scale.update(metrics.noise)
    if monitor:
        seconds = time.monotonic() - metrics.began
        samples_per_s = len(metrics.losses) * state.ranks.world / seconds
        monitor.record(
            step,
            loss=loss,
            terms=dict(zip(model.terms, terms, strict=True)),
            rate=state.optimizer.param_groups[0]["lr"],
            gradient_norm=torch.stack(metrics.gradient_norms).mean().item(),
            steps_per_s=samples_per_s / config.label_maps,
            samples_per_s=samples_per_s,
            waiting=metrics.waited_s / seconds,
            **({} if noise_scale is None else {"noise_scale": noise_scale}),
        )


def _validate_and_log(step: int, state: TrainingState, source: Source, monitor: Monitor | None) -> bool:
    """Validate and log the loss and a picture; return whether the loss is the lowest so far."""
    checkpoint = state.checkpoint
    average_statistics(state.eval_model, state.ranks)
    with state.autocast:
        checkpoint.validation_loss = validate(state.eval_model, source, state.config, state.device)
        if monitor:
            _, pair = next(source.validation(state.device))
            monitor.picture(step, "features", render_features(state.eval_model.backbone, pair.views))
    if monitor:
        monitor.record(step, validation_loss=checkpoint.validation_loss)
    best = checkpoint.best_validation_loss is None or checkpoint.validation_loss < checkpoint.best_validation_loss
    if best:
        checkpoint.best_validation_loss = checkpoint.validation_loss
    return best


@torch.no_grad()
def validate(model: Objective, source: Source, config: TrainConfig, device: torch.device) -> float:
    """Return the mean loss over the fixed samples that training never sees.

    Args:
        model: Model to validate; left in training mode.
        source: Source of the samples.
        config: Configuration, of which the seed counts.
        device: Device of the model.
    """
    model.eval()
    losses = [
        total_loss(model, compute_losses(model, sample, index, config.seed))
        for index, sample in source.validation(device)
    ]
    model.train()
    return torch.stack(losses).mean().item()
