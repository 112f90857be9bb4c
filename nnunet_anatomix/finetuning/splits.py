"""Folds for few labelled cases: what nnU-Net's ``splits_final.json`` says."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import count
from math import comb
from pathlib import Path

import numpy as np

from pretraining.atomic import write_text
from pretraining.errors import InputError

log = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"
Fold = dict[str, list[str]]

STOCK_FOLDS = 5
"""nnU-Net's own cross-validation; it needs as many cases."""


def few_shot_splits(cases: Sequence[str]) -> list[Fold]:
    """Leave-one-out folds; a single case trains and validates on itself.

    Parameters
    ----------
    cases : identifiers of the training cases, 1 to 4 of them.

    Returns
    -------
    One ``{"train": [...], "val": [...]}`` a case, in sorted order, as nnU-Net's ``splits_final.json`` holds them.

    Raises
    ------
    InputError
        If there is no case, or if there are enough for nnU-Net's own folds.
    """
    if not 1 <= len(cases) < STOCK_FOLDS:
        raise InputError(f"leave-one-out is for 1 to {STOCK_FOLDS - 1} cases, found {len(cases)}")
    cases = sorted(cases)
    if len(cases) == 1:
        return [{"train": cases, "val": cases}]
    return [{"train": [other for other in cases if other != case], "val": [case]} for case in cases]


def shots_splits(cases: Sequence[str], shots: int, *, seed: int, repeats: int = 1) -> list[Fold]:
    """Folds that train on ``shots`` cases drawn at random and validate on all others.

    Parameters
    ----------
    cases : identifiers of the training cases.
    shots : cases to train on.
    seed : of the drawing.
    repeats : folds; they differ as long as there are that many different draws.

    Returns
    -------
    One ``{"train": [...], "val": [...]}`` a repeat; with all cases in training they validate themselves too.

    Raises
    ------
    InputError
        If there are fewer cases than shots, or nothing is asked for.
    """
    if not 1 <= shots <= len(cases):
        raise InputError(f"expected from 1 to {len(cases)} shots, as there are so many training cases, found {shots}")
    if repeats < 1 or seed < 0:
        raise InputError(f"expected at least 1 repeat and a seed of at least 0, found {repeats} and {seed}")
    cases, rng = sorted(map(str, cases)), np.random.default_rng(seed)
    drawn: list[list[str]] = []
    while len(drawn) < repeats:
        chosen = sorted(cases[index] for index in rng.choice(len(cases), shots, replace=False))
        # All different draws once, before any comes again.
        if drawn.count(chosen) == len(drawn) // comb(len(cases), shots):
            drawn.append(chosen)
    return [{"train": train, "val": [case for case in cases if case not in train] or train} for train in drawn]


def write_splits(folder: Path, folds: Sequence[Fold]) -> Path | None:
    """Write ``splits_final.json`` into a dataset's preprocessed folder.

    Returns
    -------
    Where an older, different one was moved to.

    Raises
    ------
    InputError
        If the dataset was not planned yet, and so has no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; plan the dataset first (nnunet-anatomix plan -d …)")
    path, text = folder / SPLITS_FILE, json.dumps(list(folds), indent=4)
    backup = None
    if path.exists() and path.read_text(encoding="utf-8") != text:
        backup = next(other for number in count(1) if not (other := folder / f"splits_final.backup-{number}.json").exists())
        write_text(backup, path.read_text(encoding="utf-8"))
    write_text(path, text)
    return backup


def split_dataset(dataset: str, shots: int, *, seed: int = 0, repeats: int = 1) -> Path:
    """Give a planned dataset few-shot folds, see :func:`shots_splits`; an older file is kept beside.

    Returns
    -------
    The file written.
    """
    from nnunetv2.paths import nnUNet_preprocessed  # the pure part does without nnU-Net

    from nnunet_anatomix.finetuning.dataset import find_dataset

    raw = find_dataset(dataset)
    folder = Path(nnUNet_preprocessed) / raw.name
    folds = shots_splits(list(raw.cases), shots, seed=seed, repeats=repeats)
    if backup := write_splits(folder, folds):
        log.info("the older folds are now in %s", backup)
    for number, fold in enumerate(folds):
        log.info("fold %d: train on %s, validate on %d others", number, fold["train"], len(set(fold["val"]) - set(fold["train"])))
    if shots == len(raw.cases):
        log.warning("all cases are trained on: validation says nothing about new scans")
    return folder / SPLITS_FILE
