"""Dice and surface distance of a folder of segmentations, as a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.scores.overlap import dice_by_label, hd95_mm_by_label
from nnunet_anatomix.scores.statistics import bootstrap_std, subject_means
from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError
from pretraining.common.tables import markdown_table, write_records
from pretraining.imaging.dataset_json import DATASET_FILE, IGNORE, read_dataset_json
from pretraining.imaging.grids import same_grid
from pretraining.imaging.label_files import is_label_file, label_map, stem
from pretraining.imaging.rejection import Rejected
from pretraining.imaging.scans import read_image

log = logging.getLogger(__name__)

Structures = Mapping[str, tuple[int, ...]]
"""Name → the labels it is made of: one, or those of a region."""


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One structure of one case.

    Attributes:
        case, label: Names.
        dice: In [0, 1]; NaN where neither truth nor prediction has it.
        hd95_mm: See :func:`hd95_mm_by_label`; NaN where one of them lacks it.
    """

    case: str
    label: str
    dice: float
    hd95_mm: float


def evaluate_segmentation(predictions: Path, truth: Path, *, out: Path) -> str:
    """Score every prediction against the truth of the same name; write ``cases.csv`` and ``table.md``.

    Args:
        predictions, truth: Folders of label files. A ``dataset.json`` of nnU-Net's in either names
            the labels; its regions count as such, and what it ignores does not count.
        out: Folder for the results; made if missing.

    Returns:
        The table, as Markdown.

    Raises:
        InputError: If there are no predictions, one has no truth or another grid, or a file is
            damaged or no label map.
    """
    structures = _structures(predictions) or _structures(truth)
    scores, unused = [], _label_files(truth)
    for case, (prediction, true) in _pairs(predictions, truth).items():
        unused.pop(case)
        scores += score_case(case, *_read_pair(prediction, true), structures)
    if unused:
        log.warning("%d truths without a prediction are left out: %s", len(unused), ", ".join(unused))
    text = markdown(scores)
    write_records(out / "cases.csv", CaseScore, scores)
    write_text(out / "table.md", text)
    return text


def score_case(
    case: str, prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], structures: Structures
) -> list[CaseScore]:
    """Scores of the structures, and after them of labels that belong to none.

    Args:
        case: Its name.
        prediction, truth: (X, Y, Z) labels, one grid.
        spacing_mm: Of the grid, along X, Y and Z.
        structures: What to score.
    """
    if IGNORE in structures:
        counts = ~np.isin(truth, structures[IGNORE])
        prediction, truth = prediction * counts, truth * counts
    dice, distance = dice_by_label(truth, prediction), hd95_mm_by_label(truth, prediction, spacing_mm)
    named = {label for labels in structures.values() for label in labels}
    scores = []
    for name, labels in {**structures, **{str(label): (label,) for label in dice if label not in named}}.items():
        if name == IGNORE:
            continue
        (label, *more), its_dice, its_distance = labels, dice, distance
        if more:
            true, predicted = (np.where(np.isin(labelled, labels), label, 0) for labelled in (truth, prediction))
            its_dice, its_distance = dice_by_label(true, predicted), hd95_mm_by_label(true, predicted, spacing_mm)
        scores.append(
            CaseScore(case=case, label=name, dice=its_dice.get(label, nan), hd95_mm=its_distance.get(label, nan))
        )
    return scores


def markdown(scores: Sequence[CaseScore]) -> str:
    """The table: a line a label, and their mean."""
    lines = []
    labels = list(dict.fromkeys(score.label for score in scores))
    for name in (*labels, "mean"):
        mine = [score for score in scores if name in (score.label, "mean") and not isnan(score.dice)]
        cases = {score.case for score in mine}
        missed = sum(isnan(score.hd95_mm) for score in mine)
        lines.append([name, str(len(cases)), _cell(mine, "dice", 3), _cell(mine, "hd95_mm", 2), str(missed)])
    table = markdown_table(["label", "cases", "Dice (std)", "HD95, mm (std)", "on one side only"], lines)
    said = "Means over cases, in brackets their std bootstrapped over the cases; HD95 where both truth and prediction have the label"
    return f"{said}\n\n{table}"


def _cell(scores: Sequence[CaseScore], metric: str, digits: int) -> str:
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.case, []).append(getattr(score, metric))
    means = subject_means(values)
    if len(means) == 0:
        return "–"
    std = bootstrap_std(means)
    return f"{means.mean():.{digits}f} ({'–' if isnan(std) else f'{std:.{digits}f}'})"


def _structures(folder: Path) -> Structures:
    """Of the ``dataset.json`` in a folder; empty if there is none."""
    path = folder / DATASET_FILE
    return (
        {name: numbers for name, numbers in read_dataset_json(path).labels.items() if any(numbers)}
        if path.is_file()
        else {}
    )


def _pairs(predictions: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Case → prediction and truth."""
    predicted, true = _label_files(predictions), _label_files(truth)
    if not predicted:
        raise InputError(
            f"no predictions in {predictions}, expected label files (.nii.gz, .nii, .nrrd, .mha); name their folder"
        )
    if missing := predicted.keys() - true.keys():
        named = ", ".join(sorted(missing)[:5])
        raise InputError(
            f"{len(missing)} of {len(predicted)} predictions have no truth in {truth}: {named}; add it, or move them away"
        )
    return {case: (path, true[case]) for case, path in predicted.items()}


def _label_files(folder: Path) -> dict[str, Path]:
    """Case → file, by name."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; name a folder of label files")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_label_file(path.name) and files.setdefault(stem(path.name), path) != path:
            raise InputError(f"{path} and {files[stem(path.name)].name} are of one name; keep one of them")
    return files


def _read_pair(prediction: Path, truth: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Labels, and the spacing of their grid."""
    (predicted, first), (true, second) = _read(prediction, "prediction"), _read(truth, "truth")
    if not same_grid(first, second):
        found = f"{first.GetSize()} voxels of {first.GetSpacing()} mm for {second.GetSize()} of {second.GetSpacing()} mm, or other axes"
        raise InputError(f"{prediction} is not on the grid of {truth}: {found}; resample it to the truth")
    return predicted, true, second.GetSpacing()


def _read(path: Path, role: str) -> tuple[np.ndarray, sitk.Image]:
    image = read_image(path, role)
    try:
        return label_map(image).labels, image
    except Rejected as rejected:
        raise InputError(f"{role}: {path}: {rejected}") from None
