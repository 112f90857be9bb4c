"""Compare recipes of fine-tuning by leave-one-out on ``imagesTr``: no test scan is read.

``python -m tests.benchmarks.recipe_search --work DIR --out recipes.csv --datasets 901``
adds the rows that are missing, and prints the table. Killed, the same command goes on with the last
checkpoint. Every run is a stock ``nnUNetv2_train`` on a plan that differs from the planned one in
the settings of :data:`VARIANTS` alone; the Dice is that of nnU-Net's own validation of the scan
that was left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_anatomix.finetuning.dataset import RawDataset, find_dataset
from nnunet_anatomix.finetuning.recipe import BLOCK
from nnunet_anatomix.scores.statistics import read_case_dice
from nnunet_anatomix.study.runs import (
    BUILT_IN_STARTS,
    CONFIGURATION,
    PREPROCESSED,
    Run,
    StartWeights,
    StudySettings,
    execute_run,
    prepare,
)
from pretraining.common.atomic import write_text
from pretraining.common.tables import markdown_table
from tests.benchmarks.registration_rows import add_row, has_row, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One recipe: a trainer and changes of its plan."""

    trainer: str = "AnatomixTrainer"
    on_stock_plan: bool = False
    """Use the plan of stock nnU-Net: its grid, its patch and its intensities."""
    block: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the plan's ``anatomix`` block; groups of settings are merged."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the architecture's keyword arguments."""
    weights: str = ""
    """Weights file. Default: the bundled weights."""

    @property
    def start(self) -> StartWeights:
        """Start of a study with the trainer and the plan of this variant."""
        plans = BUILT_IN_STARTS["stock" if self.on_stock_plan else "weights"].plans
        return StartWeights(name="variant", trainer=self.trainer, plans=plans, weights=self.weights)

    def edit(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of ``plan`` with the changes."""
        edited: dict[str, Any] = json.loads(json.dumps(plan))
        edited["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"] |= self.backbone
        block = edited.setdefault(BLOCK, {}) if self.block else {}
        for key, value in self.block.items():
            block[key] = {**block.get(key, {}), **value} if isinstance(value, Mapping) else value
        return edited


VARIANTS: dict[str, Variant] = {
    "stock": Variant(trainer="AnatomixTrainerStock", on_stock_plan=True),
    "paper": Variant(trainer="AnatomixTrainerPaper"),
    "recipe": Variant(),
    "batch_statistics": Variant(backbone={"norm": "batch", "norm_affine": False}),
    "table9": Variant(block={"augmentation": {"policy": "table9"}}),
    "one_rate": Variant(block={"schedule": {"head_factor": 1.0}}),
    "rate_3e-3": Variant(block={"optimizer": {"learning_rate": 3e-3}}),
    "v2_preview": Variant(weights="weights/anatomix_unet16_v2_preview.safetensors"),
}


def left_out_dice(
    work: Path, settings: StudySettings, name: str, raw: RawDataset, left_out: str, seed: int
) -> dict[str, float]:
    """Train on all labelled scans but one, and return the Dice of each label of that scan."""
    variant, cases = VARIANTS[name], sorted(raw.cases)
    prepare(work, settings, [variant.start])
    start = StartWeights(**{**vars(variant.start), "name": f"{name}_without_{left_out}_{settings.iterations}"})
    run = Run(start=start, shots=len(cases) - 1, seed=seed)
    plan_file = Path(raw.name) / f"{start.plans}.json"
    own = work / "runs" / run.name / PREPROCESSED / plan_file
    own.parent.mkdir(parents=True, exist_ok=True)
    planned = json.loads((work / PREPROCESSED / plan_file).read_text(encoding="utf-8"))
    write_text(own, json.dumps(variant.edit(planned), indent=2))  # before the links, which leave it as it is
    fold = {"train": [case for case in cases if case != left_out], "val": [left_out]}
    summary = execute_run(run, settings, fold, work, None, "cpu")
    return {score.label: score.dice for score in read_case_dice(summary, raw.description)}


def add_missing_rows(
    out: Path,
    work: Path,
    dataset: str,
    variants: Sequence[str],
    *,
    left_out: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    iterations: int = 250,
    max_patch: int = 64,
    patch: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    batch: int = 2,
) -> None:
    """Run what ``out`` does not hold yet: scan by scan, so that variants are compared early.

    Args:
        out: Table, continued row by row.
        work: Folder for plans, preprocessed scans and runs.
        dataset: ID or name of a dataset below ``nnUNet_raw``.
        variants: Names of :data:`VARIANTS`.
        left_out: Cases to leave out, one after the other. Default: all.
        seeds: Seeds of the head, of the batches and of the augmentation.
        iterations: Optimizer steps.
        max_patch: Maximum side of a patch, voxels.
        patch: Patch size of our plans, voxels, slices first. Default: as planned.
        spacing_mm: Spacing of our plans, mm, slices first. Default: as planned.
        batch: Patches per step.
    """
    raw = find_dataset(dataset)
    settings = StudySettings(
        dataset=raw.name,
        iterations=iterations,
        max_patch=max_patch,
        patch=patch,
        spacing_mm=spacing_mm,
        batch=batch,
    )
    size = "x".join(map(str, patch)) if patch else f"up to {max_patch}"
    if spacing_mm:
        size += " at " + "x".join(f"{spacing:g}" for spacing in spacing_mm)
    for seed in seeds:
        for case in left_out or sorted(raw.cases):
            for name in variants:
                key = {"dataset": raw.name, "steps": iterations, "patch": size, "case": case, "seed": seed}
                if has_row(out, **key, variant=name):
                    continue
                dice = left_out_dice(work / raw.name / size.replace(" ", "_"), settings, name, raw, case, seed)
                add_row(out, {**key, "variant": name, "dice": mean(dice), "labels": json.dumps(dice)})
                log.info("%s without %s, %s, seed %d: %.3f", raw.name, case, name, seed, mean(dice))


def mean(dice: Mapping[str, float]) -> float:
    """Mean Dice over the labels that the scan or its prediction has."""
    return round(float(np.nanmean(list(dice.values()))), 4)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A row per dataset, steps and patch; a column per variant: mean Dice and number of runs."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    settings = list(dict.fromkeys((row["dataset"], row["steps"], row["patch"]) for row in rows))
    lines = []
    for setting in settings:
        cells = []
        for variant in variants:
            values = [
                float(row["dice"])
                for row in rows
                if (row["dataset"], row["steps"], row["patch"], row["variant"]) == (*setting, variant)
            ]
            cells.append(f"{np.mean(values):.3f} ({len(values)})" if values else "")
        lines.append([*setting, *cells])
    return markdown_table(["dataset", "steps", "patch", *variants], lines)


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for plans, preprocessed scans and runs")
    parser.add_argument("--out", type=Path, required=True, help="CSV to add rows to")
    parser.add_argument("--datasets", nargs="+", required=True, help="IDs below nnUNet_raw")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--left-out", nargs="+", default=[], help="cases to leave out; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--max-patch", type=int, default=64)
    parser.add_argument("--patch", nargs=3, type=int, help="patch of our plans; default: as planned")
    parser.add_argument("--spacing", nargs=3, type=float, help="spacing of our plans, mm; default: as planned")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ.setdefault("nnUNet_n_proc_DA", "0")
    for folder in ("nnUNet_preprocessed", "nnUNet_results"):  # every run has its own
        os.environ.setdefault(folder, str(options.work))
    for dataset in options.datasets:
        add_missing_rows(
            options.out,
            options.work,
            dataset,
            options.variants,
            left_out=options.left_out,
            seeds=options.seeds,
            iterations=options.iterations,
            max_patch=options.max_patch,
            patch=tuple(options.patch) if options.patch else None,
            spacing_mm=tuple(options.spacing) if options.spacing else None,
        )
    log.info("%s", table(read_rows(options.out)))


if __name__ == "__main__":
    main()
