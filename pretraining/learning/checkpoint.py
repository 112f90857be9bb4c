"""Training state on disk: everything that a resumed run needs to continue exactly."""

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

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """State of a training after ``step`` steps.

    Attributes:
        step: Number of steps done.
        config: Configuration of the training, as JSON types.
        templates: Description of the samples' source, as JSON types.
        model: State dict of the model.
        optimizer: State dict of the optimizer.
        validation_loss: Loss at the last validation; None before the first.
        best_validation_loss: Lowest validation loss so far; None before the first.
        seconds: Wall time spent training, over all sessions, seconds.
        first_loss: First recorded training loss; None before that.
        average: State dict of the running average of the weights; None if there is none.
        minutes: Wall time of the whole training if that limits it, else None.
        reserve_s: Time reserved for the last validation and checkpoint, seconds; None while
            unknown.
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
    """Write ``checkpoint`` atomically, in place of an older one.

    Args:
        path: File to write.
        checkpoint: State to save.
    """
    with atomic_write(path) as partial:
        torch.save(vars(checkpoint), partial)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; verify its checksums and unpickle no objects.

    Args:
        path: File to read.

    Raises:
        InputError: If the file is missing, damaged or not a checkpoint.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}; expected the folder of a training that has saved one")
    content = load_tensor_file(Path(path), "expected a checkpoint of a training: start a new run elsewhere")
    try:
        return Checkpoint(**content)
    except TypeError as error:
        raise InputError(f"{path} is not a checkpoint of this version ({error}); start a new run elsewhere") from None


def load_or_init(
    run: Path, config: TrainConfig, templates: dict[str, Any], *, resume: bool, init_from: Path | None
) -> Checkpoint:
    """Load the state that a training continues from, or initialize a new one.

    Args:
        run: Folder of the run.
        config: Configuration of the training.
        templates: Description of the samples' source, as JSON types.
        resume: Load the folder's checkpoint if there is one.
        init_from: Weights for the backbone of a new run.

    Raises:
        InputError: If the folder holds a training and ``resume`` is not set; if its training has
            another configuration or other samples; if it holds other files; if the checkpoint is
            damaged; if the weights do not fit.

    Notes:
        If the last checkpoint is missing, the best one is loaded.
    """
    _check_config_file(run, type(config))
    last, best = run / "checkpoint.pt", run / "best.pt"
    if not last.is_file() and not best.is_file():
        return _initialize(config, templates, init_from)
    if not resume and last.is_file():
        raise InputError(f"{run} already holds a training; add --resume to continue it or name another folder")
    if not resume:
        raise InputError(
            f"{run} holds the {best.name} of a training; add --resume to continue from it, or name another folder"
        )
    if init_from:
        raise InputError(f"{run} already holds a training; --init-from is for new ones")
    checkpoint = _load_last_or_best(last, best)
    if changed := differences(from_dict(type(config), checkpoint.config), config):
        raise InputError(
            f"{run} was started with another configuration ({'; '.join(changed)}); resume with the old one"
        )
    if checkpoint.templates != templates:
        raise InputError(
            f"{run} was started with other templates ({checkpoint.templates}, now {templates}); name those"
        )
    return checkpoint


def _check_config_file(run: Path, kind: type[TrainConfig]) -> None:
    """Raise InputError if the folder's configuration is not a training's but e.g. a store's."""
    path = run / "config.json"
    if path.is_file():
        try:
            read_json(kind, path)
        except InputError as error:
            raise InputError(
                f"{path} is not a training of this version; name a new or an empty folder ({error})"
            ) from None


def _load_last_or_best(last: Path, best: Path) -> Checkpoint:
    if last.is_file():
        try:
            return load_checkpoint(last)
        except InputError as error:
            hint = f"; or delete it, then --resume continues from {best}" if best.is_file() else ""
            raise InputError(f"{error}{hint}") from None
    checkpoint = load_checkpoint(best)
    log.warning("%s is missing: the training continues from %s, step %d", last, best, checkpoint.step)
    return checkpoint


def _initialize(config: TrainConfig, templates: dict[str, Any], init_from: Path | None) -> Checkpoint:
    model = build(
        lambda: make_objective(config.objective, config.backbone), sample_generator(config.seed, 0, "initial weights")
    )
    if init_from:
        weights = load_weights(init_from)
        log.info("%s: %s", init_from, transfer(match_architecture(weights, config.backbone).state, model.backbone))
    return Checkpoint(step=0, config=to_dict(config), templates=templates, model=model.state_dict(), optimizer={})
