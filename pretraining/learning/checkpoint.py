"""The state of a training on disk: everything a resumed run needs to go on as if it had never stopped."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretraining.backbone.initialization import build
from pretraining.backbone.statistics import match_architecture
from pretraining.backbone.tensor_files import load_tensor_file
from pretraining.backbone.transfer import transfer
from pretraining.backbone.weights import load_weights
from pretraining.common.atomic import atomic_write
from pretraining.common.config import differences, from_dict, read_json, to_dict
from pretraining.common.errors import InputError
from pretraining.common.random import sample_generator
from pretraining.learning.objectives.choice import make_objective

if TYPE_CHECKING:
    from pretraining.learning.train_config import TrainConfig


@dataclass
class Checkpoint:
    """State after ``step`` steps.

    Attributes:
        step: Steps done.
        config: The training's configuration, as JSON types.
        templates: What the samples were made of, as JSON types.
        model, optimizer: State dicts.
        validation_loss: At the last validation, None before the first.
        best_validation_loss: The lowest so far, None before the first.
        seconds: Wall time spent training, over all sittings.
        first_loss: The first that was recorded, None before that.
        average: State dict of the running average of the weights, None if there is none.
        minutes: Wall time of the whole training where that limits it, else None.
        reserve_s: Seconds of ``minutes`` that are kept for the last validation and checkpoint; None
            while unknown.
    """

    step: int
    config: dict[str, Any]
    templates: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    seconds: float = 0.0
    first_loss: float | None = None
    average: dict[str, Any] | None = None
    minutes: float | None = None
    reserve_s: float | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint``, whole or not at all; an older one stays until then."""
    with atomic_write(path) as partial:
        torch.save(vars(checkpoint), partial)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, after comparing all of it with its checksums; no objects are unpickled.

    Raises:
        InputError: If there is none, or the file is damaged or of another kind.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}; expected the folder of a training that has saved one")
    content = load_tensor_file(Path(path), "expected a checkpoint of a training: start a new run elsewhere")
    try:
        return Checkpoint(**content)
    except TypeError as error:
        raise InputError(f"{path} is no checkpoint of this version ({error}); start a new run elsewhere") from None


log = logging.getLogger(__name__)


def load_or_init(
    run: Path, config: TrainConfig, templates: dict[str, Any], *, resume: bool, init_from: Path | None
) -> Checkpoint:
    """The state that a training of ``config`` goes on from in the folder ``run``.

    Args:
        templates: What the samples are made of.
        resume: Take the folder's checkpoint if there is one.
        init_from: Weights whose backbone a new run starts from.

    Raises:
        InputError: If the folder holds a training and ``resume`` is not set, or one of another
            configuration or other samples, or something else, or a damaged checkpoint, or if the
            weights do not fit.

    Notes:
        Where the last checkpoint has gone, the best one is the state to go on from.
    """
    _refuse_other_things(run, type(config))
    last, best = run / "checkpoint.pt", run / "best.pt"
    if not last.is_file() and not best.is_file():
        return _first_checkpoint(config, templates, init_from)
    if not resume and last.is_file():
        raise InputError(f"{run} already holds a training; add --resume to go on with it or name another folder")
    if not resume:
        raise InputError(
            f"{run} holds the {best.name} of a training; add --resume to go on from it, or name another folder"
        )
    if init_from:
        raise InputError(f"{run} already holds a training; --init-from is for new ones")
    checkpoint = _last_or_best(last, best)
    if changed := differences(from_dict(type(config), checkpoint.config), config):
        raise InputError(
            f"{run} was started with another configuration ({'; '.join(changed)}); resume with the old one"
        )
    if checkpoint.templates != templates:
        raise InputError(
            f"{run} was started with other templates ({checkpoint.templates}, now {templates}); name those"
        )
    return checkpoint


def _refuse_other_things(run: Path, kind: type[TrainConfig]) -> None:
    """Raise InputError if the folder's configuration is not one of a training: a store of samples has one of the same name."""
    path = run / "config.json"
    if path.is_file():
        try:
            read_json(kind, path)
        except InputError as error:
            raise InputError(
                f"{path} is of no training of this version; name a new or an empty folder ({error})"
            ) from None


def _last_or_best(last: Path, best: Path) -> Checkpoint:
    if last.is_file():
        try:
            return load_checkpoint(last)
        except InputError as error:
            hint = f"; or delete it, then --resume goes on from {best}" if best.is_file() else ""
            raise InputError(f"{error}{hint}") from None
    checkpoint = load_checkpoint(best)
    log.warning("%s is missing: the training goes on from %s, step %d", last, best, checkpoint.step)
    return checkpoint


def _first_checkpoint(config: TrainConfig, templates: dict[str, Any], init_from: Path | None) -> Checkpoint:
    model = build(
        lambda: make_objective(config.objective, config.backbone), sample_generator(config.seed, 0, "initial weights")
    )
    if init_from:
        weights = load_weights(init_from)
        log.info("%s: %s", init_from, transfer(match_architecture(weights, config.backbone).state, model.backbone))
    return Checkpoint(step=0, config=to_dict(config), templates=templates, model=model.state_dict(), optimizer={})
