"""Commands ``train`` and ``sweep`` of ``anatomix-pretrain``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from pretraining.commands.defaults import DEFAULT_PRESET, Switch, open_bank
from pretraining.common.errors import UsageError
from pretraining.common.outputs import try_folder
from pretraining.common.rare_flags import Rare
from pretraining.learning.train import train as train_backbone
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from pretraining.samples.store import open_store

log = logging.getLogger(__name__)


def train_command(default: TrainConfig) -> Callable[..., None]:
    """Return the ``train`` command.

    Args:
        default: Configuration that its flags override.
    """

    def train(
        out: Path,
        templates: Path | None = None,
        samples: Path | None = None,
        preset: str = DEFAULT_PRESET,
        minutes: float | None = None,
        resume: Switch = False,
        init_from: Path | None = None,
        device: str = "auto",
        workers: int | None = None,
        config: Annotated[Rare[TrainConfig], tyro.conf.arg(name="")] = default,
    ) -> None:
        """Pretrain a backbone contrastively, on samples computed on the fly or from a store.

        Every field of the configuration is a flag too, such as --steps 8000 (see --help-all).

        Args:
            out: Folder of the run.
            templates: Template bank. Default: procedural shapes.
            samples: Sample store of synthesize, instead of templates; it sets the engine options.
            preset: Initial configuration, a name or .json file; flags override it.
            minutes: Total wall time of training and rate schedule, instead of --steps.
            resume: Resume the run in --out with its configuration; --minutes may change.
            init_from: Weights file for initialization.
            device: auto, cpu, cuda or cuda:N.
            workers: Processes for samples. Default: 1 on a CPU; on a GPU 0, or several for a store.
            config: Training settings.
        """
        if templates and samples:
            raise UsageError("expected --templates or --samples, not both")
        samples_from = open_store(samples) if samples else open_bank(templates)
        checkpoint = train_backbone(
            out,
            config,
            samples_from,
            minutes=minutes,
            resume=resume,
            init_from=init_from,
            device=device,
            workers=workers,
        )
        log.info("%s: step %d, validation loss %.4f", out, checkpoint.step, checkpoint.validation_loss or float("nan"))

    return train


def sweep(
    variants: Path,
    out: Path,
    data: Path,
    templates: Path | None = None,
    preset: str = "small",
    minutes: float = 20.0,
    device: str = "auto",
) -> None:
    """Train variants of a preset for the same time, judge them and write a table.

    The features are judged by matching T1 to T2 and T1 to PD. If interrupted, run the command again
    to resume.

    Args:
        variants: A .json file {"name": {"field": value}} with the changes of each variant.
        out: Folder of the sweep.
        data: Folder with t1, t2, pd and labels on one grid, such as registration/mni_multimodal.
        templates: Template bank. Default: procedural shapes.
        preset: Base configuration of the variants, a name or .json file.
        minutes: Wall time per variant.
        device: auto, cpu, cuda or cuda:N.
    """
    from pretraining.probing.sweep import read_variants
    from pretraining.probing.sweep import sweep as run_sweep

    try_folder(out)
    base = load_preset(TrainConfig, preset)
    log.info(
        "%s", run_sweep(read_variants(variants, base), open_bank(templates), data, out, minutes=minutes, device=device)
    )
