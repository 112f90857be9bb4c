"""``anatomix-pretrain train`` and ``sweep``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from pretraining.commands.defaults import DEFAULT_PRESET, Switch, open_bank
from pretraining.common.errors import UsageError
from pretraining.common.outputs import try_folder
from pretraining.learning.train import train as train_backbone
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from pretraining.samples.store import open_store

log = logging.getLogger(__name__)


def train_command(default: TrainConfig) -> Callable[..., None]:
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
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Pretrain a backbone contrastively, on samples made on the fly or on a store of them.

        Args:
            out: Folder of the run.
            templates: A template bank; procedural shapes if left out.
            samples: A store made by synthesize, in place of templates; its engine configuration is
                the run's.
            preset: Configuration to start from, by name or .json file; flags override it.
            minutes: Wall time of all sittings, in place of --steps; the learning rate's schedule
                ends with it. May change with --resume.
            resume: Go on with the run in --out, by its own configuration and minutes.
            init_from: Weights file to start from.
            device: auto, cpu, cuda or cuda:N.
            workers: Processes that make samples on the CPU; by default 1 on a CPU, none (samples on
                the GPU) on a GPU. Or that read them.
            config: Configuration.
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
    """Train several variants for the same time, judge each on T1 to T2 and PD, and write a table; killed, it goes on.

    Args:
        variants: A .json file, {"name": {"field": value}}: what each variant has in place of the
            preset.
        out: Folder of the sweep.
        data: Folder with t1, t2, pd and labels on one grid, for example
            registration/mni_multimodal.
        templates: A template bank; procedural shapes if left out.
        preset: What the variants vary, by name or .json file.
        minutes: Wall time of each.
        device: auto, cpu, cuda or cuda:N.
    """
    from pretraining.probing.sweep import read_variants
    from pretraining.probing.sweep import sweep as run_sweep

    try_folder(out)
    base = load_preset(TrainConfig, preset)
    log.info(
        "%s", run_sweep(read_variants(variants, base), open_bank(templates), data, out, minutes=minutes, device=device)
    )
