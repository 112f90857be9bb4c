"""Preprocessed unlabelled scans with their labels, beside the preprocessed scans of a plan.

The labels of a fold are made from its training cases alone, so that its validation cases stay
unseen. Each fold has nnU-Net's usual files, and the confidence of the labels::

    sets.json                            cases that the labels are from, and weight of each scan
    fold_0/CASE.b2nd, _seg.b2nd, .pkl    a scan and its labels, as nnU-Net preprocesses them
    fold_0/confidence/CASE.b2nd          confidence of each voxel, per cent
    all/...                              the same for fold all
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.errors import InputError

SETS = "sets.json"
CONFIDENCE = "confidence"
ENLARGED = "Enlarged"
"""Ending of the names of plans that also train on unlabelled scans."""
FOLDER_ENDING = "_unlabelled"
_PREPROCESSING = ("data_identifier", "spacing", "normalization_schemes")
"""Entries of a configuration that change preprocessed scans."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Labels of the unlabelled scans for one fold.

    Attributes:
        labelled: Labelled cases that the labels are made from, sorted.
        weights: Unlabelled scan → weight in (0, 1], its expected Dice.
    """

    labelled: tuple[str, ...]
    weights: dict[str, float]


def set_name(fold: int | str) -> str:
    """Return the sub-folder of a fold's labels."""
    return "all" if fold == "all" else f"fold_{fold}"


def write_sets(folder: Path, sets: dict[str, LabelSet]) -> None:
    """Write which scans of ``folder`` each fold trains on."""
    content = {name: {"labelled": list(one.labelled), "weights": one.weights} for name, one in sets.items()}
    write_text(folder / SETS, json.dumps(content, indent=1) + "\n")


def read_sets(folder: Path) -> dict[str, LabelSet]:
    """Read what :func:`write_sets` wrote; empty if there is nothing valid."""
    try:
        content = json.loads((folder / SETS).read_text(encoding="utf-8"))
        return {
            name: LabelSet(labelled=tuple(one["labelled"]), weights=dict(one["weights"]))
            for name, one in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def set_for_fold(folder: Path, fold: int | str, train: Iterable[str]) -> LabelSet:
    """Return the labels for a fold.

    Args:
        folder: Folder of the unlabelled scans.
        fold: Number of the fold, or ``all``.
        train: Labelled training cases of the fold.

    Raises:
        InputError: If the labels are missing, or were made from other cases: they could show the
            labels of validation cases.
    """
    found = read_sets(folder).get(set_name(fold))
    train = sorted(map(str, train))
    if found is None or list(found.labelled) != train:
        source = "no case" if found is None else ", ".join(found.labelled)
        raise InputError(
            f"{folder} has labels for fold {fold} from {source}, but the fold trains on {', '.join(train)}; "
            f"{_remedy(folder)}"
        )
    return found


def require_same_preprocessing(folder: Path, configuration: Mapping[str, Any], name: str) -> None:
    """Refuse unlabelled scans that were preprocessed otherwise than the labelled ones.

    Args:
        folder: Folder of the unlabelled scans.
        configuration: Configuration that they were preprocessed by.
        name: Its name.

    Raises:
        InputError: If the plan of the labelled scans was made anew since, with another grid or
            normalization.
    """
    path = folder.parent / f"{folder.name.removesuffix(FOLDER_ENDING)}.json"
    if not path.is_file():
        return
    labelled = json.loads(path.read_text(encoding="utf-8"))["configurations"][name]
    if changed := [key for key in _PREPROCESSING if labelled.get(key) != configuration.get(key)]:
        raise InputError(
            f"{path.stem} was planned anew since {folder.name} was made ({changed[0]}: "
            f"{configuration.get(changed[0])}, now {labelled.get(changed[0])}); {_remedy(folder)}"
        )


def _remedy(folder: Path) -> str:
    plans = folder.name.removesuffix(FOLDER_ENDING)
    return f"run: nnunet-anatomix enlarge -d {int(folder.parent.name[7:10])} -p {plans}"
