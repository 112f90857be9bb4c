"""``anatomix-pretrain preview`` and ``synthesize``."""

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
from pretraining.engine.synthesis import EngineConfig, check_bank
from pretraining.learning.train_config import TrainConfig
from pretraining.previews.artefacts import artefact_page
from pretraining.previews.samples import contact_sheet
from pretraining.samples.slurm import submit
from pretraining.samples.synthesize import Request, Share
from pretraining.samples.synthesize import synthesize as fill_store

log = logging.getLogger(__name__)


def preview_command(default: TrainConfig) -> Callable[..., None]:
    def preview(
        out: Path,
        templates: Path | None = None,
        preset: str = DEFAULT_PRESET,
        page: Literal["samples", "artefacts"] = "samples",
        count: int = 6,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Draw synthetic samples: a contact sheet of label maps and their views, or each artefact alone.

        Args:
            out: The .png file to write.
            templates: A template bank; procedural shapes if left out.
            preset: Configuration to start from, by name or .json file; flags override it.
            page: A sheet of samples (Fig. 9), or each artefact weak and strong on the sample of
                index COUNT - 1 (Fig. 12).
            count: Samples to draw.
            config: Configuration.
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
        engine: EngineConfig = default.engine,
    ) -> None:
        """Fill a store with samples to train on; started again, it goes on where it stopped.

        Args:
            templates: A template bank.
            out: Folder of the store.
            count: Samples of the whole store; a larger one makes a store grow.
            seed: Of the samples.
            shard: i/K makes one of K shares, on one of K machines that write into the same folder.
            workers: Processes that make samples, by default one per core, or 8 in a Slurm job.
            verify: Read what is there already, and make damaged samples anew.
            device: Where samples are made.
            executor: This machine, or an array of Slurm jobs.
            shards: Slurm jobs to share the work, by default 8.
            slurm_partition: Of the cluster; all else by Slurm's own variables (SBATCH_ACCOUNT,
                ...).
            slurm_minutes: Limit of a job; one that runs into it queues again by itself.
            preset: Configuration whose engine to start from, by name or .json file; flags override
                it.
            engine: Configuration.
        """
        request = Request(bank=TemplateBank.open(templates), engine=engine, count=count, seed=seed, device=device)
        if executor == "slurm":
            if shard is not None:
                raise InputError("--shard is for --executor local; a Slurm array makes all of --shards")
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
            raise InputError("--shards is for --executor slurm; here, --shard i/K makes one share")
        else:
            share = Share.parse(shard) if shard is not None else Share()
            fill_store(
                request, out, share=share, workers=available_cores() if workers is None else workers, verify=verify
            )

    return synthesize
