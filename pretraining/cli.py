"""Pretraining on synthetic anatomy: templates, previews, training and weights files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.backbone.weights import export_published, load_weights, save_weights
from pretraining.command_line import run_commands
from pretraining.config import load_preset, read_json
from pretraining.engine.shapes import procedural_bank
from pretraining.engine.templates import TemplateBank, build_bank
from pretraining.errors import InputError
from pretraining.learning.export import export_run
from pretraining.learning.train import TrainConfig
from pretraining.learning.train import train as train_backbone
from pretraining.preview import contact_sheet

log = logging.getLogger(__name__)

DEFAULT_PRESET = "short"
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def templates(source: tuple[Path, ...], out: Path, spacing: float = 1.5) -> None:
    """Build a bank of organ templates.

    Args:
        source: TotalSegmentator folders, folders of binary masks, or multi-label maps (NIfTI, NRRD, MHA).
        out: The bank to write.
        spacing: Isotropic grid of the templates, mm.
    """
    report = build_bank(source, out, spacing_mm=spacing)
    log.info("%s", report)


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


def _preview(default: TrainConfig) -> Callable[..., None]:
    def preview(
        out: Path,
        templates: Path | None = None,
        preset: str = DEFAULT_PRESET,
        count: int = 6,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Draw a contact sheet of synthetic samples: label map and both views.

        Args:
            out: The .png file to write.
            templates: A template bank; procedural shapes if left out.
            preset: Configuration to start from, by name or .json file; flags override it.
            count: Samples to draw.
            config: Configuration.
        """
        contact_sheet(_bank(templates), config.engine, out, count=count, seed=config.seed)
        log.info("wrote %s", out)

    return preview


def _train(default: TrainConfig) -> Callable[..., None]:
    def train(
        out: Path,
        templates: Path | None = None,
        preset: str = DEFAULT_PRESET,
        resume: Switch = False,
        init_from: Path | None = None,
        device: str = "auto",
        workers: int | None = None,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Pretrain a backbone contrastively on samples made on the fly.

        Args:
            out: Folder of the run.
            templates: A template bank; procedural shapes if left out.
            preset: Configuration to start from, by name or .json file; flags override it.
            resume: Go on with the run in --out, by its own configuration.
            init_from: Weights file to start from.
            device: auto, cpu, cuda or cuda:N.
            workers: Processes that make samples on the CPU; by default 1 on a CPU, none (samples on the GPU) on a GPU.
            config: Configuration.
        """
        checkpoint = train_backbone(out, config, _bank(templates), resume=resume, init_from=init_from, device=device, workers=workers)
        log.info("%s: step %d, validation loss %.4f", out, checkpoint.step, checkpoint.validation_loss or float("nan"))

    return train


def main() -> None:
    """Entry point of ``anatomix-pretrain``."""
    run_commands("anatomix-pretrain", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    config = _default_config(sys.argv[1:])
    return {
        "templates": templates,
        "preview": _preview(config),
        "train": _train(config),
        "export": export,
        "import": import_published,
    }


def _default_config(arguments: list[str]) -> TrainConfig:
    """The named preset, or what the run to be resumed was started with."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    if known.resume and known.out and not known.preset and (known.out / "config.json").is_file():
        return read_json(TrainConfig, known.out / "config.json")
    return load_preset(TrainConfig, known.preset or DEFAULT_PRESET)


def _bank(path: Path | None) -> TemplateBank:
    return TemplateBank.open(path) if path else procedural_bank()
