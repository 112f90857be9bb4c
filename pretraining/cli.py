"""Pretraining on synthetic anatomy: templates, previews, training and weights files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pretraining.aligned import COUNT
from pretraining.artefact_page import artefact_page
from pretraining.backbone.weights import export_published, find_weights, load_weights, save_weights
from pretraining.command_line import run_commands
from pretraining.common.outputs import try_file, try_folder
from pretraining.config import load_preset, read_json
from pretraining.device import named_device
from pretraining.engine.bank_building import build_bank
from pretraining.engine.shapes import procedural_bank
from pretraining.engine.synthesis import EngineConfig, check_bank
from pretraining.engine.templates import TemplateBank
from pretraining.errors import InputError, UsageError
from pretraining.judge import judge_weights, table, write_scores
from pretraining.learning.export import export_run
from pretraining.learning.train import train as train_backbone
from pretraining.learning.train_config import TrainConfig
from pretraining.preview import contact_sheet
from pretraining.probing.frames import FRAMES
from pretraining.processes import available_cores
from pretraining.samples.slurm import submit
from pretraining.samples.store import open_store, read_store_config
from pretraining.samples.synthesize import Request, Share
from pretraining.samples.synthesize import synthesize as fill_store

log = logging.getLogger(__name__)

DEFAULT_PRESET = "short"
FrameName = Literal["aligned", "moved", "turned"]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def templates(
    source: tuple[Path, ...],
    out: Path,
    spacing: float = 1.5,
    workers: int | None = None,
    licence: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
) -> None:
    """Build a bank of organ templates; a build that was killed goes on when started again.

    Args:
        source: TotalSegmentator folders, nnU-Net raw datasets, folders of binary masks, multi-label maps (NIfTI, NRRD, MHA),
            or procedural[:COUNT].
        out: The bank to write; OUT.report.txt beside it names all that was not used.
        spacing: Isotropic grid of the templates, mm.
        workers: Processes that read, by default one per core.
        licence: Of sources that have no LICENCE file: one for all, or one for each source in order.
        region: Part of the body that each source shows, in order, for balanced draws; by default sources whose organs
            have other names are other regions.
    """
    processes = available_cores() if workers is None else workers
    report = build_bank(source, out, spacing_mm=spacing, processes=processes, licences=licence, regions=region)
    log.info("%s\n%s", out, report.summary())


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

    A cell of the table is nearest / separation / local. Nearest: share of voxels whose nearest neighbour in the other modality's features
    lies at the same place. Separation: how often a voxel is more similar to one at the same place than to one elsewhere. Local: share of
    voxels whose true place is the most similar one among the 125 places within 4 voxels. T1 to T2, T1 to PD and synthetic samples are for
    choosing settings and weights. T1 to CT is only reported: choose nothing by it.

    Args:
        data: Folder with registration/mni_multimodal and nnUNet_raw/Dataset903_LimbSarcoma, or one of these.
        weights: A .safetensors or published .pth file, or hf://owner/repo/file@revision; by default ANATOMIX_WEIGHTS, else bundled.
        json: File to write the scores of every subject to.
        templates: A template bank for the synthetic samples; procedural shapes if left out.
        frames: How the second image lies in its frame: as it is, behind an empty margin of 40 voxels, or turned by 10 degrees and scaled
            by 1.1. Aligned images also share the place in the frame, so trust the other two.
        device: auto, cpu, cuda or cuda:N.
        voxels: Drawn in each subject.
        seed: Of the drawing, of the random network and of the samples.
    """
    if json:
        try_file(json, "--json")
    place = named_device(device)
    path = find_weights(weights)
    loaded = load_weights(path)
    chosen = [frame for frame in FRAMES if frame.name in frames]
    bank = TemplateBank.open(templates) if templates else None
    scores, samples = judge_weights(loaded, data, name=path.stem, count=voxels, seed=seed, device=place, frames=chosen, bank=bank)
    log.info("%s", table(scores, samples))
    if json:
        write_scores(json, scores, weights=str(path), sha256=loaded.sha256, voxels=voxels, seed=seed, samples=samples)
        log.info("wrote %s", json)


def _preview(default: TrainConfig) -> Callable[..., None]:
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
            page: A sheet of samples (Fig. 9), or each artefact weak and strong on the sample of index COUNT - 1 (Fig. 12).
            count: Samples to draw.
            config: Configuration.
        """
        try_file(out)
        bank = _bank(templates)
        check_bank(bank, config.engine)
        if page == "samples":
            contact_sheet(bank, config.engine, out, count=count, seed=config.seed)
        else:
            artefact_page(bank, config.engine, out, seed=config.seed, index=count - 1)
        log.info("wrote %s", out)

    return preview


def _synthesize(default: TrainConfig) -> Callable[..., None]:
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
            slurm_partition: Of the cluster; all else by Slurm's own variables (SBATCH_ACCOUNT, ...).
            slurm_minutes: Limit of a job; one that runs into it queues again by itself.
            preset: Configuration whose engine to start from, by name or .json file; flags override it.
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
            fill_store(request, out, share=share, workers=available_cores() if workers is None else workers, verify=verify)

    return synthesize


def _train(default: TrainConfig) -> Callable[..., None]:
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
            samples: A store made by synthesize, in place of templates; its engine configuration is the run's.
            preset: Configuration to start from, by name or .json file; flags override it.
            minutes: Wall time of all sittings, in place of --steps; the learning rate's schedule ends with it. May change with --resume.
            resume: Go on with the run in --out, by its own configuration and minutes.
            init_from: Weights file to start from.
            device: auto, cpu, cuda or cuda:N.
            workers: Processes that make samples on the CPU; by default 1 on a CPU, none (samples on the GPU) on a GPU. Or that read them.
            config: Configuration.
        """
        if templates and samples:
            raise UsageError("expected --templates or --samples, not both")
        samples_from = open_store(samples) if samples else _bank(templates)
        checkpoint = train_backbone(
            out, config, samples_from, minutes=minutes, resume=resume, init_from=init_from, device=device, workers=workers
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
        variants: A .json file, {"name": {"field": value}}: what each variant has in place of the preset.
        out: Folder of the sweep.
        data: Folder with t1, t2, pd and labels on one grid, for example registration/mni_multimodal.
        templates: A template bank; procedural shapes if left out.
        preset: What the variants vary, by name or .json file.
        minutes: Wall time of each.
        device: auto, cpu, cuda or cuda:N.
    """
    from pretraining.learning.sweep import read_variants
    from pretraining.learning.sweep import sweep as run_sweep

    try_folder(out)
    base = load_preset(TrainConfig, preset)
    log.info("%s", run_sweep(read_variants(variants, base), _bank(templates), data, out, minutes=minutes, device=device))


def main() -> None:
    """Entry point of ``anatomix-pretrain``."""
    run_commands("anatomix-pretrain", _commands, __doc__ or "")


def _commands() -> dict[str, Callable[..., None]]:
    config = _default_config(sys.argv[1:])
    return {
        "templates": templates,
        "preview": _preview(config),
        "synthesize": _synthesize(config),
        "train": _train(config),
        "sweep": sweep,
        "export": export,
        "judge": judge,
        "import": import_published,
    }


def _default_config(arguments: list[str]) -> TrainConfig:
    """The named preset, with the engine of the store to train on, if any; or what the run to be resumed was started with."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--resume", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    if known.resume and known.out and not known.preset and (known.out / "config.json").is_file():
        return read_json(TrainConfig, known.out / "config.json")
    config = load_preset(TrainConfig, known.preset or DEFAULT_PRESET)
    return replace(config, engine=read_store_config(known.samples).engine) if known.samples else config


def _bank(path: Path | None) -> TemplateBank:
    return TemplateBank.open(path) if path else procedural_bank()
