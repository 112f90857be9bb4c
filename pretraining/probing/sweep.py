"""Comparison of several variants of a training at equal wall time, evaluated on real images.

SWEEP/NAME/run            run folder of a variant; an interrupted one resumes
SWEEP/NAME/result.json    scores of the variant
SWEEP/failed.csv          failed variants, with the reasons
SWEEP/table.md, .csv      scores of all finished variants

Several calls may work in one folder at the same time, each on different variants.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretraining.backbone.unet import UNet
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.atomic import write_text
from pretraining.common.batch import FAILURES, run_batch
from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError
from pretraining.common.lock import hold_lock
from pretraining.common.tables import markdown_table, write_csv
from pretraining.learning.budget import check_minutes
from pretraining.learning.checkpoint import Checkpoint
from pretraining.learning.export import backbone_state
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.probing.aligned import read_brain
from pretraining.probing.judge import judge, network_features

log = logging.getLogger(__name__)

RESULT = "result.json"
"""Name of a variant's result file."""
CHOOSING = ("t2", "pd")
"""Modalities that T1 is compared with; CT is reserved for reporting."""


def read_variants(path: Path, base: TrainConfig) -> dict[str, TrainConfig]:
    """Read variants from JSON: ``{"name": {"field": value, "part": {"field": value}}, ...}``.

    Args:
        path: File to read.
        base: Configuration that the fields of each variant override.

    Raises:
        InputError: If the file is not such JSON or a variant is not a valid configuration.
    """
    try:
        variants = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: expected JSON {{"name": {{"field": value}}}}, found {error}') from None
    if (
        not isinstance(variants, dict)
        or not variants
        or not all(isinstance(changes, dict) for changes in variants.values())
    ):
        raise InputError(f'{path}: expected JSON {{"name": {{"field": value}}}} with at least one variant')
    return {name: from_dict(TrainConfig, _merge(to_dict(base), changes)) for name, changes in variants.items()}


def sweep(
    variants: Mapping[str, TrainConfig],
    bank: TemplateBank,
    brain: Path,
    out: Path,
    *,
    minutes: float,
    device: str = "auto",
) -> str:
    """Train every unfinished variant for the same time, evaluate it, and write the table.

    Args:
        variants: Configurations by name; ``minutes`` overrides ``steps``, and validation happens
            only at the end.
        bank: Organ templates.
        brain: Folder with T1, T2, PD and regions on one grid, see
            :func:`pretraining.probing.aligned.read_brain`.
        out: Folder of the sweep.
        minutes: Wall time of each training, minutes.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The table, as Markdown.

    Raises:
        CommandFailed: After all other variants, if some failed or are in use by other processes.
        Interrupted: If asked to stop; the current training is saved, and the same call resumes it.
    """
    check_minutes(minutes)
    images = read_brain(brain, CHOOSING)

    def is_done(name: str) -> bool:
        return (out / name / RESULT).is_file()

    def work(name: str) -> None:
        folder, config = out / name, variants[name]
        with hold_lock(folder):
            if is_done(name):  # finished by another process meanwhile
                return
            log.info("%s: %g minutes", name, minutes)
            checkpoint = train(
                folder / "run",
                replace(config, validate_every=sys.maxsize),
                bank,
                minutes=minutes,
                resume=True,
                device=device,
            )
            scores = judge({name: network_features(_load_network(checkpoint, config))}, [images])
            nearest = {f"{score.first}→{score.second}": round(score.nearest, 4) for score in scores}
            row = {"variant": name, "steps": checkpoint.step, "minutes": round(checkpoint.seconds / 60, 2)}
            row |= nearest | {"mean": round(sum(nearest.values()) / len(nearest), 4)}
            write_text(folder / RESULT, json.dumps(row) + "\n")
        log.info("%s", row)
        report()

    def report() -> str:
        rows = [json.loads((out / name / RESULT).read_text()) for name in variants if is_done(name)]
        columns = list(rows[0])
        write_csv(out / "table.csv", columns, ([row[column] for column in columns] for row in rows))
        ranked = sorted(rows, key=lambda row: -row["mean"])
        text = markdown_table(columns, ([row[column] for column in columns] for row in ranked))
        write_text(out / "table.md", text)
        return text

    outcome = run_batch({name: name for name in variants}, work, noun="variant", is_done=is_done, failures=out)
    outcome.require_all("variants", see=out / FAILURES)
    return report()


def _load_network(checkpoint: Checkpoint, config: TrainConfig) -> UNet:
    net = UNet(config.backbone)
    net.load_state_dict(backbone_state(checkpoint))
    return net


def _merge(old: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    parts = {
        name: _merge(old[name], value) if isinstance(value, dict) and isinstance(old.get(name), dict) else value
        for name, value in changes.items()
    }
    return old | parts
