"""Folds for few labelled cases: what nnU-Net's ``splits_final.json`` says."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import count
from math import comb
from pathlib import Path

import numpy as np

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"
Fold = dict[str, list[str]]

STOCK_FOLDS = 5
"""nnU-Net's own cross-validation; it needs as many cases."""


def few_shot_splits(cases: Sequence[str]) -> list[Fold]:
    """Leave-one-out folds; a single case trains and validates on itself.

    Args:
        cases: Identifiers of the training cases, 1 to 4 of them.

    Returns:
        One ``{"train": [...], "val": [...]}`` a case, in sorted order, as nnU-Net's
        ``splits_final.json`` holds them.

    Raises:
        InputError: If there is no case, or if there are enough for nnU-Net's own folds.
    """
    if not 1 <= len(cases) < STOCK_FOLDS:
        raise InputError(f"leave-one-out is for 1 to {STOCK_FOLDS - 1} cases, found {len(cases)}")
    cases = sorted(cases)
    if len(cases) == 1:
        return [{"train": cases, "val": cases}]
    return [{"train": [other for other in cases if other != case], "val": [case]} for case in cases]


def draw_folds(
    cases: Sequence[str], shots: int, *, seed: int, repeats: int = 1, validation: Sequence[str] | None = None
) -> list[Fold]:
    """Draw folds that train on few cases; the first fold of a seed is the one that a study trains on with that seed.

    Args:
        cases: Identifiers of the training cases; their order does not matter.
        shots: Cases to train on. With one seed, more shots contain fewer.
        seed: Sole source of randomness.
        repeats: Folds; they differ as long as there are that many different draws.
        validation: Identifiers of the cases to validate on, as far as a fold does not train on
            them; ``cases`` by default. Where none is left, a fold validates on its training cases,
            which costs nnU-Net the least time.

    Returns:
        One ``{"train": [...], "val": [...]}`` a repeat, sorted.

    Raises:
        InputError: If there are fewer cases than shots, or nothing is asked for.
    """
    if not 1 <= shots <= len(cases):
        raise InputError(f"expected from 1 to {len(cases)} shots, as there are so many training cases, found {shots}")
    if repeats < 1 or seed < 0:
        raise InputError(f"expected at least 1 repeat and a seed of at least 0, found {repeats} and {seed}")
    cases, rng = sorted(map(str, cases)), np.random.default_rng(seed)
    drawn: list[list[str]] = []
    while len(drawn) < repeats:
        chosen = sorted(cases[index] for index in rng.permutation(len(cases))[:shots])
        # All different draws once, before any comes again.
        if drawn.count(chosen) == len(drawn) // comb(len(cases), shots):
            drawn.append(chosen)
    candidates = cases if validation is None else sorted(map(str, validation))
    return [{"train": train, "val": [case for case in candidates if case not in train] or train} for train in drawn]


def training_pool(folder: Path, cases: Sequence[str]) -> list[str]:
    """List the cases that few-shot folds may train on.

    Args:
        folder: Raw dataset, perhaps with a ``splits_final.json`` as ``nnunet-anatomix prepare``
            writes it.
        cases: Identifiers of all training cases.

    Returns:
        All cases, or, where the raw dataset brings folds of its own, those of the fold that trains
        on most; sorted.

    Raises:
        InputError: If that file is damaged or names other cases.
    """
    path = folder / SPLITS_FILE
    if not path.is_file():
        return sorted(cases)
    try:
        pool = max((fold["train"] for fold in json.loads(path.read_text(encoding="utf-8"))), key=len)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no folds of nnU-Net's ({error!r}); prepare the dataset again, or remove the file"
        ) from None
    if not pool or set(pool) - set(cases):
        raise InputError(
            f"{path} trains on cases that imagesTr does not have: {sorted(set(pool) - set(cases))[:3]}; prepare the dataset again"
        )
    return sorted(pool)


def write_splits(folder: Path, folds: Sequence[Fold]) -> Path | None:
    """Write ``splits_final.json`` into a dataset's preprocessed folder.

    Returns:
        Where an older, different one was moved to.

    Raises:
        InputError: If the dataset was not planned yet, and so has no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; plan the dataset first (nnunet-anatomix plan -d …)")
    path, text = folder / SPLITS_FILE, json.dumps(list(folds), indent=4)
    backup = None
    if path.exists() and path.read_text(encoding="utf-8") != text:
        backup = next(
            other for number in count(1) if not (other := folder / f"splits_final.backup-{number}.json").exists()
        )
        write_text(backup, path.read_text(encoding="utf-8"))
    write_text(path, text)
    return backup


def split_dataset(dataset: str, shots: int, *, seed: int = 0, repeats: int = 1) -> Path:
    """Give a planned dataset few-shot folds, see :func:`draw_folds`; an older file is kept beside.

    Returns:
        The file written.
    """
    from nnunetv2.paths import nnUNet_preprocessed  # the pure part does without nnU-Net

    from nnunet_anatomix.finetuning.dataset import find_dataset

    raw = find_dataset(dataset)
    folder = Path(nnUNet_preprocessed) / raw.name
    folds = draw_folds(
        training_pool(raw.folder, list(raw.cases)), shots, seed=seed, repeats=repeats, validation=list(raw.cases)
    )
    if backup := write_splits(folder, folds):
        log.info("the older folds are now in %s", backup)
    for number, fold in enumerate(folds):
        log.info(
            "fold %d: train on %s, validate on %d others",
            number,
            fold["train"],
            len(set(fold["val"]) - set(fold["train"])),
        )
    if shots == len(raw.cases):
        log.warning("all cases are trained on: validation says nothing about new scans")
    return folder / SPLITS_FILE
