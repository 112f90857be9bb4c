"""Folds for few labelled cases, as nnU-Net's ``splits_final.json`` stores them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import count
from math import comb
from pathlib import Path

import numpy as np

from nnunet_anatomix.finetuning.case_record import name_some
from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError

log = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"
Fold = dict[str, list[str]]

STOCK_FOLDS = 5
"""Folds of nnU-Net's own cross-validation, and the fewest cases that it needs."""


def few_shot_splits(cases: Sequence[str]) -> list[Fold]:
    """Return leave-one-out folds; with a single case, it is both training and validation case.

    Args:
        cases: Identifiers of 1 to 4 training cases.

    Returns:
        One ``{"train": [...], "val": [...]}`` per case, in sorted order, as in nnU-Net's
        ``splits_final.json``.

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
    """Draw folds that train on few cases.

    A study with the same seed trains on the first fold.

    Args:
        cases: Identifiers of the training cases; their order does not matter.
        shots: Training cases per fold. For one seed, the cases of more shots include those of
            fewer.
        seed: Sole source of randomness.
        repeats: Number of folds; they differ as long as there are enough different draws.
        validation: Identifiers of the cases to validate on, except a fold's training cases. If
            none remains, a fold validates on its training cases, which takes nnU-Net the least
            time. Default: ``cases``.

    Returns:
        One ``{"train": [...], "val": [...]}`` per repeat, sorted.

    Raises:
        InputError: If there are fewer cases than shots, if ``shots`` or ``repeats`` is below 1, or
            if ``seed`` is negative.
    """
    if not 1 <= shots <= len(cases):
        raise InputError(f"expected from 1 to {len(cases)} shots, the number of training cases, found {shots}")
    if repeats < 1 or seed < 0:
        raise InputError(f"expected at least 1 repeat and a seed of at least 0, found {repeats} and {seed}")
    cases, rng = sorted(map(str, cases)), np.random.default_rng(seed)
    drawn: list[list[str]] = []
    while len(drawn) < repeats:
        chosen = sorted(cases[index] for index in rng.permutation(len(cases))[:shots])
        # Use every different draw once before any is repeated.
        if drawn.count(chosen) == len(drawn) // comb(len(cases), shots):
            drawn.append(chosen)
    candidates = cases if validation is None else sorted(map(str, validation))
    return [{"train": train, "val": [case for case in candidates if case not in train] or train} for train in drawn]


def training_pool(folder: Path, cases: Sequence[str]) -> list[str]:
    """List the cases that few-shot folds may train on.

    Args:
        folder: Raw dataset, with or without a ``splits_final.json`` from
            ``nnunet-anatomix prepare``.
        cases: Identifiers of all training cases.

    Returns:
        All cases, or, if the raw dataset has folds of its own, the training cases of the largest
        fold; sorted.

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
            f"{path} does not contain folds in nnU-Net's format ({error!r}); "
            "prepare the dataset again, or remove the file"
        ) from None
    if not pool or set(pool) - set(cases):
        raise InputError(
            f"{path} trains on cases that imagesTr does not have: {sorted(set(pool) - set(cases))[:3]}; "
            "prepare the dataset again"
        )
    return sorted(pool)


def write_splits(folder: Path, folds: Sequence[Fold]) -> Path | None:
    """Write ``splits_final.json`` into a dataset's preprocessed folder.

    Args:
        folder: Preprocessed folder of the dataset.
        folds: Folds to write.

    Returns:
        Backup of an existing file with other folds, or None.

    Raises:
        InputError: If the folder does not exist because the dataset is not planned yet.
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


def automatic_splits(cases: Sequence[str]) -> list[Fold]:
    """Return the folds that a training makes: leave-one-out below five cases, else nnU-Net's."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = sorted(cases)
    if len(cases) < STOCK_FOLDS:
        return few_shot_splits(cases)
    return [
        {part: [str(case) for case in names] for part, names in fold.items()}
        for fold in generate_crossval_split(cases, seed=12345, n_splits=STOCK_FOLDS)
    ]


def update_splits(folder: Path, cases: Sequence[str]) -> str:
    """Make automatic folds of a dataset anew if its cases have changed; keep folds of the user.

    Args:
        folder: Preprocessed folder of the dataset, with or without a ``splits_final.json``.
        cases: Identifiers of the present cases.

    Returns:
        Line for the log; empty if nothing is to be said.

    Raises:
        InputError: If the file is damaged, or if folds of the user name cases that do not exist.
    """
    path = folder / SPLITS_FILE
    if not path.is_file():
        return ""
    remedy = f"remove {path}, or draw folds: nnunet-anatomix split -d {folder.name[7:10]} --shots N"
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        named = sorted({case for fold in folds for case in (*fold["train"], *fold["val"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not contain folds in nnU-Net's format ({error!r}); {remedy}") from None
    if named == sorted(cases):
        return ""
    if named and folds == automatic_splits(named):
        backup = write_splits(folder, automatic_splits(cases))
        return f"the cases have changed: made the folds of {path} anew; the previous ones are in {backup}"
    if gone := sorted(set(named) - set(cases)):
        raise InputError(f"{path} has folds with cases that do not exist: {name_some(gone)}; {remedy}")
    left_out = set(cases) - set(named)
    return f"{len(left_out)} cases are in no fold of {path} and not used: {name_some(left_out)}"


def split_dataset(dataset: str, shots: int, *, seed: int = 0, repeats: int = 1) -> Path:
    """Draw few-shot folds for a planned dataset and write them, see :func:`draw_folds`.

    An existing file with other folds is renamed and kept.

    Args:
        dataset: ID or name.
        shots: Training cases per fold.
        seed: Sole source of randomness.
        repeats: Number of folds.

    Returns:
        Path of the ``splits_final.json``.
    """
    from nnunetv2.paths import nnUNet_preprocessed  # the pure functions above work without nnU-Net

    from nnunet_anatomix.finetuning.dataset import find_dataset

    raw = find_dataset(dataset)
    folder = Path(nnUNet_preprocessed) / raw.name
    folds = draw_folds(
        training_pool(raw.folder, list(raw.cases)), shots, seed=seed, repeats=repeats, validation=list(raw.cases)
    )
    if backup := write_splits(folder, folds):
        log.info("moved the previous folds to %s", backup)
    for number, fold in enumerate(folds):
        log.info(
            "fold %d: train on %s, validate on %d others",
            number,
            fold["train"],
            len(set(fold["val"]) - set(fold["train"])),
        )
    if shots == len(raw.cases):
        log.warning("all cases are used for training: the validation Dice does not predict accuracy on new scans")
    return folder / SPLITS_FILE
