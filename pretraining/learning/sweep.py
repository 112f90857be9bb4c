"""What buys the best features at equal wall time: several variants of a training, each judged on real images.

SWEEP/NAME/plan.json      steps that fit into the time, measured on this machine
SWEEP/NAME/run            the training, as ever; killed, it goes on
SWEEP/NAME/result.json    its scores
SWEEP/table.md, .csv      all that are finished
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretraining.aligned import read_brain
from pretraining.atomic import write_text
from pretraining.backbone.unet import UNet
from pretraining.config import from_dict, to_dict
from pretraining.engine.templates import TemplateBank
from pretraining.errors import InputError
from pretraining.judge import judge, network_features
from pretraining.learning.checkpoint import Checkpoint
from pretraining.learning.export import backbone_state
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig

log = logging.getLogger(__name__)

TRIAL_WINDOW, TRIAL_WINDOWS = 4, 6
"""Steps and number of the windows in which the speed of a variant is taken: the fastest counts, so that neither the first steps nor what
else the machine does weigh on it."""
CHOOSING = ("t2", "pd")
"""Modalities that T1 is judged against; CT is left for reporting."""


def read_variants(path: Path, base: TrainConfig) -> dict[str, TrainConfig]:
    """Read ``{"name": {"field": value, "part": {"field": value}}, ...}``: what each variant has in place of ``base``.

    Raises
    ------
    InputError
        If the file is no such JSON or a variant is no valid configuration.
    """
    try:
        variants = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: expected JSON {{"name": {{"field": value}}}}, found {error}') from None
    if not isinstance(variants, dict) or not variants or not all(isinstance(changes, dict) for changes in variants.values()):
        raise InputError(f'{path}: expected JSON {{"name": {{"field": value}}}} with at least one variant')
    return {name: from_dict(TrainConfig, _merged(to_dict(base), changes)) for name, changes in variants.items()}


def sweep(variants: Mapping[str, TrainConfig], bank: TemplateBank, brain: Path, out: Path, *, minutes: float, device: str = "auto") -> str:
    """Train every variant for about ``minutes`` of wall time, judge it, and write the table; what is done already stays.

    Parameters
    ----------
    variants : name → configuration; its ``steps`` are replaced by what fits into the time.
    bank : organ templates.
    brain : folder with T1, T2, PD and regions on one grid, see :func:`pretraining.aligned.read_brain`.
    out : folder of the sweep.

    Returns
    -------
    The table, as Markdown.
    """
    if minutes <= 0:
        raise InputError(f"expected --minutes above 0, got {minutes}")
    images = read_brain(brain, CHOOSING)
    # All at once before the first is trained: what else the machine has to do then slows all of them alike.
    plans = {name: _planned(out / name / "plan.json", config, bank, minutes=minutes, device=device) for name, config in variants.items()}
    rows = []
    for name, planned in plans.items():
        folder = out / name
        result = folder / "result.json"
        if not result.is_file():
            log.info("%s: %d steps", name, planned.steps)
            checkpoint = train(folder / "run", planned, bank, resume=True, device=device)
            scores = judge({name: network_features(_network(checkpoint, planned))}, [images])
            nearest = {f"{score.first}→{score.second}": round(score.nearest, 4) for score in scores}
            row = {"variant": name, "steps": planned.steps, "minutes": round(checkpoint.seconds / 60, 2)}
            write_text(result, json.dumps(row | nearest | {"mean": round(sum(nearest.values()) / len(nearest), 4)}) + "\n")
        rows.append(json.loads(result.read_text()))
        text = _markdown(rows)
        write_text(out / "table.md", text)
        write_text(out / "table.csv", _csv(rows))
        log.info("%s", rows[-1])
    return text


def _planned(path: Path, config: TrainConfig, bank: TemplateBank, *, minutes: float, device: str) -> TrainConfig:
    """``config`` with the steps that fit into the time and a schedule that ends with them."""
    if path.is_file():
        return from_dict(TrainConfig, json.loads(path.read_text()))
    steps = TRIAL_WINDOW * TRIAL_WINDOWS
    trial = replace(config, steps=steps, log_every=TRIAL_WINDOW, validate_every=steps, validation_pairs=1)
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), trial, bank, device=device)
        records = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    speed = max(record["steps_per_s"] for record in records if "steps_per_s" in record)
    steps = max(1, math.floor(minutes * 60 * speed))
    warmup = min(config.optimizer.warmup_steps, steps // 5)
    planned = replace(config, steps=steps, validate_every=steps, optimizer=replace(config.optimizer, warmup_steps=warmup))
    write_text(path, json.dumps(to_dict(planned), indent=2) + "\n")
    return planned


def _network(checkpoint: Checkpoint, config: TrainConfig) -> UNet:
    net = UNet(config.backbone)
    net.load_state_dict(backbone_state(checkpoint))
    return net


def _merged(old: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    parts = {
        name: _merged(old[name], value) if isinstance(value, dict) and isinstance(old.get(name), dict) else value
        for name, value in changes.items()
    }
    return old | parts


def _markdown(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    ranked = sorted(rows, key=lambda row: -row["mean"])
    lines = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in ranked)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
