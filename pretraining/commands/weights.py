"""``anatomix-pretrain export``, ``import`` and ``judge``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.backbone.weights import export_published, find_weights, load_weights, save_weights
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
    format: Literal["safetensors", "published"] = "safetensors",
    which: Literal["best", "last"] = "best",
    half: Switch = False,
    notes: str = "",
) -> None:
    """Write a training's backbone as a weights file.

    Args:
        run: Folder of the training.
        out: The .safetensors or published .pth file to write.
        format: Our file with a card, or the published flat state dict.
        which: The state with the lowest validation loss, or the last one.
        half: Store half-precision tensors.
        notes: Free text for the card.
    """
    weights = export_run(run, out, file_format=format, which=which, half=half, notes=notes)
    log.info("%s holds %d tensors, sha256 %s", out, len(weights.state), weights.sha256)


def import_published(pth: Annotated[Path, tyro.conf.Positional], out: Path) -> None:
    """Turn a published .pth state dict into a weights file.

    Args:
        pth: The published checkpoint.
        out: The .safetensors file to write; a .pth name converts back.
    """
    weights = load_weights(pth)
    if out.suffix == ".pth":
        export_published(out, weights)
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
    """Judge features on real images of one body in several modalities, beside a random network and MIND-SSC.

    A cell of the table is nearest / separation / local. Nearest: share of voxels whose nearest
    neighbour in the other modality's features lies at the same place. Separation: how often a voxel
    is more similar to one at the same place than to one elsewhere. Local: share of voxels whose
    true place is the most similar one among the 125 places within 4 voxels. T1 to T2, T1 to PD and
    synthetic samples are for choosing settings and weights. T1 to CT is only reported: choose
    nothing by it.

    Args:
        data: Folder with registration/mni_multimodal and nnUNet_raw/Dataset903_LimbSarcoma, or one
            of these.
        weights: A .safetensors or published .pth file, or hf://owner/repo/file@revision; by default
            ANATOMIX_WEIGHTS, else bundled.
        json: File to write the scores of every subject to.
        templates: A template bank for the synthetic samples; procedural shapes if left out.
        frames: How the second image lies in its frame: as it is, behind an empty margin of 40
            voxels, or turned by 10 degrees and scaled by 1.1. Aligned images also share the place
            in the frame, so trust the other two.
        device: auto, cpu, cuda or cuda:N.
        voxels: Drawn in each subject.
        seed: Of the drawing, of the random network and of the samples.
    """
    if json:
        try_file(json, "--json")
    place = resolve_device(device)
    path = find_weights(weights)
    loaded = load_weights(path)
    chosen = [frame for frame in FRAMES if frame.name in frames]
    bank = TemplateBank.open(templates) if templates else None
    scores, samples = judge_weights(
        loaded, data, name=path.stem, count=voxels, seed=seed, device=place, frames=chosen, bank=bank
    )
    log.info("%s", table(scores, samples))
    if json:
        write_scores(json, scores, weights=str(path), sha256=loaded.sha256, voxels=voxels, seed=seed, samples=samples)
        log.info("wrote %s", json)
