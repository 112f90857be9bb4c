"""Default configurations for the flags of ``anatomix-pretrain``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pretraining.bank.template_bank import TemplateBank
from pretraining.common.config import read_json
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from pretraining.samples.store import read_store_config
from pretraining.templates.procedural import procedural_bank

DEFAULT_PRESET = "short"
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def default_config(arguments: list[str]) -> TrainConfig:
    """Return the configuration that the flags of a command line override.

    Args:
        arguments: Command line without the program.

    Returns:
        The configuration of the run to resume, if any; else the preset, with the engine
        configuration of the sample store to train on, if any.
    """
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


def open_bank(path: Path | None) -> TemplateBank:
    """Open a template bank, or build the procedural bank.

    Args:
        path: Template bank. None: procedural shapes.
    """
    return TemplateBank.open(path) if path else procedural_bank()
