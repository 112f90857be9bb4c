"""Table of Dice and surface distance for a folder of segmentations."""

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
"""Labels of each structure by name: one, or several for a region."""


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """Scores of one structure in one case.

    Attributes:
        case: Identifier of the case.
        label: Name of the structure.
        dice: Dice in [0, 1]; NaN if neither truth nor prediction contains the structure.
        hd95_mm: 95 % Hausdorff distance, see :func:`hd95_mm_by_label`; NaN unless both contain it.
    """

    case: str
    label: str
    dice: float
    hd95_mm: float


def evaluate_segmentation(predictions: Path, truth: Path, *, out: Path) -> str:
    """Score predictions against the truth of the same name; write ``cases.csv`` and ``table.md``.

    A ``dataset.json`` of nnU-Net in either folder names the labels. Its regions are scored as
    regions, and voxels with the ignore label are excluded.

    Args:
        predictions: Folder of label files.
        truth: Folder of label files with the same names.
        out: Folder for the results; created if missing.

    Returns:
        Table, as Markdown.

    Raises:
        InputError: If there are no predictions, if a prediction has no truth or another grid than
            its truth, or if a file is damaged or not a label map.
    """
    structures = _structures(predictions) or _structures(truth)
    scores, unused = [], _label_files(truth)
    for case, (prediction, true) in _pairs(predictions, truth).items():
        unused.pop(case)
        scores += score_case(case, *_read_pair(prediction, true), structures)
    if unused:
        log.warning("%d cases of the truth have no prediction and are not scored: %s", len(unused), ", ".join(unused))
    text = markdown(scores)
    write_records(out / "cases.csv", CaseScore, scores)
    write_text(out / "table.md", text)
    return text


def score_case(
    case: str, prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], structures: Structures
) -> list[CaseScore]:
    """Score one case: all structures, then labels that belong to no structure.

    Args:
        case: Identifier of the case.
        prediction: (X, Y, Z) labels.
        truth: (X, Y, Z) labels on the same grid.
        spacing_mm: Spacing along X, Y and Z, mm.
        structures: Structures to score.
    """
    if IGNORE in structures:
        is_scored = ~np.isin(truth, structures[IGNORE])
        prediction, truth = prediction * is_scored, truth * is_scored
    named = {label for labels in structures.values() for label in labels}
    found = np.union1d(np.unique(truth), np.unique(prediction)).astype(int).tolist()
    unnamed = {str(label): (label,) for label in found if label > 0 and label not in named}
    scored = {name: labels for name, labels in {**structures, **unnamed}.items() if name != IGNORE}
    dice = dice_by_structure(truth, prediction, scored)
    distance_mm = hd95_mm_by_label(truth, prediction, spacing_mm)
    scores = []
    for name, labels in scored.items():
        if len(labels) > 1:
            distance = hd95_mm_by_label(*_masks(labels, truth, prediction), spacing_mm=spacing_mm).get(1, nan)
        else:
            distance = distance_mm.get(labels[0], nan)
        scores.append(CaseScore(case=case, label=name, dice=dice[name], hd95_mm=distance))
    return scores


def dice_by_structure(truth: np.ndarray, prediction: np.ndarray, structures: Structures) -> dict[str, float]:
    """Compute the Dice of every structure.

    Args:
        truth: (X, Y, Z) labels.
        prediction: (X, Y, Z) labels on the same grid.
        structures: Structures to score, regions of several labels included.

    Returns:
        Name → Dice in [0, 1]; NaN for a structure that neither map contains.
    """
    single, found = dice_by_label(truth, prediction), {}
    for name, labels in structures.items():
        if len(labels) == 1:
            found[name] = single.get(labels[0], nan)
            continue
        found[name] = dice_by_label(*_masks(labels, truth, prediction)).get(1, nan)
    return found


def _masks(labels: Sequence[int], truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of a region in both maps, 1 inside."""
    return np.isin(truth, labels).astype(np.uint8), np.isin(prediction, labels).astype(np.uint8)


def markdown(scores: Sequence[CaseScore]) -> str:
    """Format the scores as a Markdown table with one line per label and one for the mean."""
    lines = []
    labels = list(dict.fromkeys(score.label for score in scores))
    for name in (*labels, "mean"):
        selected = [score for score in scores if name in (score.label, "mean") and not isnan(score.dice)]
        cases = {score.case for score in selected}
        missed = sum(isnan(score.hd95_mm) for score in selected)
        lines.append(
            [
                name,
                str(len(cases)),
                _format_mean(selected, "dice", 3),
                _format_mean(selected, "hd95_mm", 2),
                str(missed),
            ]
        )
    table = markdown_table(["label", "cases", "Dice (std)", "HD95, mm (std)", "on one side only"], lines)
    caption = (
        "Means over cases, in brackets their std bootstrapped over the cases; "
        "HD95 where both truth and prediction have the label"
    )
    return f"{caption}\n\n{table}"


def _format_mean(scores: Sequence[CaseScore], metric: str, digits: int) -> str:
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.case, []).append(getattr(score, metric))
    means = subject_means(values)
    if len(means) == 0:
        return "–"
    std = bootstrap_std(means)
    return f"{means.mean():.{digits}f} ({'–' if isnan(std) else f'{std:.{digits}f}'})"


def _structures(folder: Path) -> Structures:
    """Read the structures from the ``dataset.json`` in a folder; empty if there is none."""
    path = folder / DATASET_FILE
    return (
        {name: numbers for name, numbers in read_dataset_json(path).labels.items() if any(numbers)}
        if path.is_file()
        else {}
    )


def _pairs(predictions: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of prediction and truth by case."""
    predicted, true = _label_files(predictions), _label_files(truth)
    if not predicted:
        raise InputError(
            f"no predictions in {predictions}, expected label files (.nii.gz, .nii, .nrrd, .mha); give their folder"
        )
    if missing := predicted.keys() - true.keys():
        first = ", ".join(sorted(missing)[:5])
        raise InputError(
            f"{len(missing)} of {len(predicted)} predictions have no truth in {truth}: {first}; "
            "add the truth, or remove these predictions"
        )
    return {case: (path, true[case]) for case, path in predicted.items()}


def _label_files(folder: Path) -> dict[str, Path]:
    """Return the label files of a folder by case, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give a folder of label files")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_label_file(path.name) and files.setdefault(stem(path.name), path) != path:
            raise InputError(f"{path} and {files[stem(path.name)].name} belong to the same case; keep one of them")
    return files


def _read_pair(prediction: Path, truth: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read the labels of prediction and truth, and the spacing of their grid, mm."""
    (predicted, first), (true, second) = _read(prediction, "prediction"), _read(truth, "truth")
    if not same_grid(first, second):
        raise InputError(
            f"{prediction} is not on the grid of {truth}: expected {second.GetSize()} voxels of "
            f"{second.GetSpacing()} mm with the same axes, found {first.GetSize()} of {first.GetSpacing()} mm; "
            "resample it to the truth"
        )
    return predicted, true, second.GetSpacing()


def _read(path: Path, role: str) -> tuple[np.ndarray, sitk.Image]:
    image = read_image(path, role)
    try:
        return label_map(image).labels, image
    except Rejected as rejected:
        raise InputError(f"{role}: {path}: {rejected}") from None
