"""Export of a run's backbone to a weights file with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pretraining.backbone.nnssl import export_nnssl
from pretraining.backbone.weights import Weights, export_published, save_weights, tensors_sha256
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError
from pretraining.common.versions import VERSION
from pretraining.learning.checkpoint import Checkpoint, load_checkpoint
from pretraining.learning.train_config import TrainConfig

_BACKBONE = "backbone."


def export_run(
    run: Path,
    out: Path,
    *,
    file_format: Literal["safetensors", "published", "nnssl"] = "safetensors",
    which: Literal["best", "last"] = "best",
    half: bool = False,
    notes: str = "",
) -> Weights:
    """Write a run's backbone as a weights file, without the projection heads.

    Args:
        run: Folder of the run.
        out: File to write, ``.safetensors`` or, for the other formats, ``.pth``.
        file_format: Format of the file; ``published`` is a flat state dict without a card,
            ``nnssl`` a checkpoint for nnU-Net's ``nnUNetv2_train_pretrained``.
        which: State to export: the one with the lowest validation loss, or the last one.
        half: Store floating-point tensors as fp16, which halves the file.
        notes: Free text for the card, e.g. hardware and licences.

    Returns:
        The exported weights.

    Raises:
        InputError: If ``run`` has no such checkpoint or ``out`` has the wrong suffix.
    """
    suffix = ".safetensors" if file_format == "safetensors" else ".pth"
    if out.suffix != suffix:
        raise InputError(f"expected a {suffix} file for the {file_format} format, found {out}")
    checkpoint = load_checkpoint(run / ("best.pt" if which == "best" else "checkpoint.pt"))
    config = from_dict(TrainConfig, checkpoint.config)
    state = backbone_state(checkpoint)
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    card = {
        "name": out.stem,
        "iterations": checkpoint.step,
        "label_maps": checkpoint.step * config.label_maps,
        "objective": config.objective.kind,
        "temperature": config.objective.contrastive.temperature,
        "seed": config.seed,
        "validation_loss": checkpoint.validation_loss,
        "minutes": round(checkpoint.seconds / 60, 1),
        "templates": checkpoint.templates,
        "config": checkpoint.config,
        "software": f"nnunet-anatomix {VERSION}, torch {torch.__version__}",
        "licence": "Apache-2.0",
        "notes": notes,
    }
    weights = Weights(config.backbone, state, card, tensors_sha256(state))
    if file_format == "nnssl":
        export_nnssl(out, weights)
    elif file_format == "published":
        export_published(out, weights)
    else:
        save_weights(out, state, config.backbone, card)
    return weights


def backbone_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the backbone's tensors, from the running average of the weights if there is one.

    Args:
        checkpoint: State of a training; its validation loss belongs to the same tensors.
    """
    prefix, source = (
        (f"module.{_BACKBONE}", checkpoint.average) if checkpoint.average else (_BACKBONE, checkpoint.model)
    )
    return {name.removeprefix(prefix): tensor for name, tensor in source.items() if name.startswith(prefix)}
