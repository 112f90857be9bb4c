"""Configurations that the flags of ``anatomix-pretrain`` start from."""

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


def open_bank(path: Path | None) -> TemplateBank:
    return TemplateBank.open(path) if path else procedural_bank()
