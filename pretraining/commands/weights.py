"""Commands ``export``, ``import`` and ``judge`` of ``anatomix-pretrain``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.backbone.external_weights import load_feature_weights
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.nnssl import export_nnssl
from pretraining.backbone.weights import export_published, load_weights, save_weights
from pretraining.bank.template_bank import TemplateBank
from pretraining.commands.defaults import Switch
from pretraining.common.device import resolve_device
from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file
from pretraining.learning.export import export_run
from pretraining.probing.aligned import COUNT
from pretraining.probing.frames import FRAMES
from pretraining.probing.judge import judge_weights
from pretraining.probing.scores import table, write_scores

log = logging.getLogger(__name__)

FrameName = Literal["aligned", "moved", "turned"]


def export(
    run: Annotated[Path, tyro.conf.Positional],
    out: Path,
    format: Literal["safetensors", "published", "nnssl"] = "safetensors",
    which: Literal["best", "last"] = "best",
    half: Switch = False,
    notes: str = "",
) -> None:
    """Write the backbone of a training run as a weights file.

    Args:
        run: Folder of the run.
        out: The .safetensors or .pth file to write.
        format: This project's safetensors with a card, the flat state dict of published weights, or
            a checkpoint for nnU-Net's nnUNetv2_train_pretrained.
        which: Checkpoint with the lowest validation loss, or the last one.
        half: Store half-precision tensors.
        notes: Free text for the card.
    """
    weights = export_run(run, out, file_format=format, which=which, half=half, notes=notes)
    log.info("%s holds %d tensors, sha256 %s", out, len(weights.state), weights.sha256)


def import_published(
    pth: Annotated[Path, tyro.conf.Positional], out: Path, format: Literal["published", "nnssl"] = "published"
) -> None:
    """Convert a published .pth state dict to a weights file, or a weights file to .pth.

    Args:
        pth: Published checkpoint, or a weights file to convert back.
        out: The .safetensors file to write, or .pth to convert back.
        format: Format of a .pth file: published, or nnssl for nnUNetv2_train_pretrained.
    """
    weights = load_weights(pth)
    if format == "nnssl" and out.suffix != ".pth":
        raise InputError(f"expected --out to end in .pth for nnssl, found {out}")
    if out.suffix == ".pth":
        (export_nnssl if format == "nnssl" else export_published)(out, weights)
    elif out.suffix == ".safetensors":
        save_weights(out, weights.state, weights.architecture, weights.card)
    else:
        raise InputError(f"expected --out to end in .safetensors or .pth, found {out}")
    log.info("%s holds %d tensors of %s", out, len(weights.state), weights.architecture)


def judge(
    data: Path,
    weights: Annotated[str | None, tyro.conf.Positional] = None,
    json: Path | None = None,
    templates: Path | None = None,
    frames: tuple[FrameName, ...] = ("aligned", "moved", "turned"),
    device: str = "auto",
    voxels: int = COUNT,
    seed: int = 0,
) -> None:
    """Evaluate features on aligned images, beside a random network and MIND-SSC.

    Each cell of the table is nearest / separation / local. Nearest: share of voxels whose nearest
    neighbour in the other modality's features is at the same position. Separation: probability that
    a voxel is more similar to its counterpart than to a voxel elsewhere. Local: share of voxels
    whose true position is the most similar among the 125 positions within 4 voxels. Use T1 to T2,
    T1 to PD and synthetic samples to select settings and weights. T1 to CT is only reported; do not
    select by it. Aligned images also share the position in the frame, which features can exploit:
    the frames moved and turned are more reliable.

    Args:
        data: Folder with registration/mni_multimodal, nnUNet_raw/Dataset903_LimbSarcoma or both.
        weights: File or hf://owner/repo/file@revision, or .json of another network. Default:
            ANATOMIX_WEIGHTS, else bundled.
        json: File for the scores of every subject.
        templates: Template bank for the synthetic samples. Default: procedural shapes.
        frames: Second image unchanged, moved by 40 voxels, or turned by 10° and scaled by 1.1.
        device: auto, cpu, cuda or cuda:N.
        voxels: Number of voxels drawn per subject.
        seed: Seed of the voxels, the random network and the samples.
    """
    if json:
        try_file(json, "--json")
    torch_device = resolve_device(device)
    path = find_weights(weights)
    loaded = load_feature_weights(weights)
    selected = [frame for frame in FRAMES if frame.name in frames]
    bank = TemplateBank.open(templates) if templates else None
    scores, samples = judge_weights(
        loaded, data, name=path.stem, count=voxels, seed=seed, device=torch_device, frames=selected, bank=bank
    )
    log.info("%s", table(scores, samples))
    if json:
        write_scores(json, scores, weights=str(path), sha256=loaded.sha256, voxels=voxels, seed=seed, samples=samples)
        log.info("wrote %s", json)
