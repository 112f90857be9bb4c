"""Commands ``preview`` and ``synthesize`` of ``anatomix-pretrain``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.bank.template_bank import TemplateBank
from pretraining.commands.defaults import DEFAULT_PRESET, Switch, open_bank
from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file
from pretraining.common.processes import available_cores
from pretraining.common.rare_flags import Rare
from pretraining.engine.synthesis import EngineConfig, check_bank
from pretraining.learning.train_config import TrainConfig
from pretraining.previews.artefacts import artefact_page
from pretraining.previews.samples import contact_sheet
from pretraining.samples.slurm import submit
from pretraining.samples.synthesize import Request, Share
from pretraining.samples.synthesize import synthesize as fill_store

log = logging.getLogger(__name__)


def preview_command(default: TrainConfig) -> Callable[..., None]:
    """Return the ``preview`` command.

    Args:
        default: Configuration that its flags override.
    """

    def preview(
        out: Path,
        templates: Path | None = None,
        preset: str = DEFAULT_PRESET,
        page: Literal["samples", "artefacts"] = "samples",
        count: int = 6,
        config: Annotated[Rare[TrainConfig], tyro.conf.arg(name="")] = default,
    ) -> None:
        """Draw synthetic samples as a contact sheet, or the effect of each artefact.

        Every field of the configuration is a flag too, such as --engine.side 64 (see --help-all).

        Args:
            out: The .png file to write.
            templates: Template bank. Default: procedural shapes.
            preset: Initial configuration, a name or .json file; flags override it.
            page: Samples (Fig. 9), or each artefact weak and strong on sample COUNT - 1 (Fig. 12).
            count: Number of samples.
            config: Training settings.
        """
        try_file(out)
        bank = open_bank(templates)
        check_bank(bank, config.engine)
        if page == "samples":
            contact_sheet(bank, config.engine, out, count=count, seed=config.seed)
        else:
            artefact_page(bank, config.engine, out, seed=config.seed, index=count - 1)
        log.info("wrote %s", out)

    return preview


def synthesize_command(default: TrainConfig) -> Callable[..., None]:
    """Return the ``synthesize`` command.

    Args:
        default: Configuration that its flags override.
    """

    def synthesize(
        templates: Path,
        out: Path,
        count: int,
        seed: int = default.seed,
        shard: str | None = None,
        workers: int | None = None,
        verify: Switch = False,
        device: Literal["cpu", "cuda"] = "cpu",
        executor: Literal["local", "slurm"] = "local",
        shards: int | None = None,
        slurm_partition: str | None = None,
        slurm_minutes: int = 240,
        preset: str = DEFAULT_PRESET,
        engine: Rare[EngineConfig] = default.engine,
    ) -> None:
        """Write training samples to a store. If interrupted, run the command again to resume.

        Every field of the engine is a flag too, such as --engine.side 64 (see --help-all).

        Args:
            templates: Template bank.
            out: Folder of the store.
            count: Number of samples in the store; a larger number extends an existing store.
            seed: Seed of the samples.
            shard: Share i/K of the samples, for one of K machines that write into the same folder.
            workers: Number of worker processes. Default: one per core, 8 in a Slurm job.
            verify: Check existing samples and replace damaged ones.
            device: Device that computes the samples.
            executor: Local machine, or an array of Slurm jobs.
            shards: Number of Slurm jobs. Default: 8.
            slurm_partition: Slurm partition; other settings come from SBATCH_ACCOUNT and the like.
            slurm_minutes: Time limit of a Slurm job; a job that reaches it is queued again.
            preset: Initial configuration of the engine, a name or .json file; flags override it.
            engine: Settings of the data engine.
        """
        request = Request(bank=TemplateBank.open(templates), engine=engine, count=count, seed=seed, device=device)
        if executor == "slurm":
            if shard is not None:
                raise InputError("--shard needs --executor local; with slurm, use --shards to set the number of jobs")
            submit(
                request,
                out,
                shares=8 if shards is None else shards,
                workers=8 if workers is None else workers,
                minutes=slurm_minutes,
                partition=slurm_partition,
                verify=verify,
            )
        elif shards is not None:
            raise InputError("--shards needs --executor slurm; with local, use --shard i/K to compute one share")
        else:
            share = Share.parse(shard) if shard is not None else Share()
            fill_store(
                request, out, share=share, workers=available_cores() if workers is None else workers, verify=verify
            )

    return synthesize
