"""The state of a training on disk: everything a resumed run needs to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretraining.atomic import written_whole
from pretraining.backbone.tensor_files import load_tensor_file
from pretraining.errors import InputError


@dataclass
class Checkpoint:
    """State after ``step`` steps.

    Attributes
    ----------
    step : steps done.
    config : the training's configuration, as JSON types.
    templates : what the samples were made of, as JSON types.
    model, optimizer : state dicts.
    validation_loss : at the last validation, None before the first.
    best_validation_loss : the lowest so far, None before the first.
    seconds : wall time spent training, over all sittings.
    first_loss : the first that was recorded, None before that.
    average : state dict of the running average of the weights, None if there is none.
    minutes : wall time of the whole training where that limits it, else None.
    reserve_s : seconds of ``minutes`` that are kept for the last validation and checkpoint; None while unknown.
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
    with written_whole(path) as partial:
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
