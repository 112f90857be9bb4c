"""The structures that a model segments, as nnU-Net's ``dataset.json`` names them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.errors import InputError

log = logging.getLogger(__name__)

_IGNORE = "ignore"
"""nnU-Net's name for voxels nobody labelled: no structure."""
_MOST_LABELS = 65_535
"""What 16 bits hold, and the most segments of DICOM."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A label, or a region made of several."""

    name: str
    labels: tuple[int, ...]
    """Values of its voxels in a prediction, ascending."""


@dataclass(frozen=True, kw_only=True)
class Structures:
    """All that a model segments; regions may overlap."""

    all: tuple[Structure, ...]
    """Labels ascending; as in ``dataset.json`` where there are regions."""
    ignored: int | None = None
    """Value of what nobody labelled."""

    @property
    def overlap(self) -> bool:
        named = [label for structure in self.all for label in structure.labels]
        return len(named) > len(set(named))

    def mask(self, labels: np.ndarray, structure: Structure) -> np.ndarray:
        """Boolean, of the shape of ``labels``."""
        return labels == structure.labels[0] if len(structure.labels) == 1 else np.isin(labels, structure.labels)

    def voxels(self, labels: np.ndarray) -> dict[str, int]:
        """How many voxels of a prediction each structure has."""
        counts = np.bincount(labels.ravel(), minlength=1 + max(max(structure.labels) for structure in self.all))
        return {structure.name: int(counts[list(structure.labels)].sum()) for structure in self.all}


def read_structures(path: Path) -> Structures:
    """Read ``labels`` of a ``dataset.json``.

    Parameters
    ----------
    path : the file.

    Raises
    ------
    InputError
        If it cannot be read, names no foreground, or its ``regions_class_order`` contradicts its regions.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        named = described["labels"]
        values = {
            str(name): tuple(sorted(set(map(_whole, value if isinstance(value, list) else [value])))) for name, value in named.items()
        }
        order = [_whole(value) for value in described.get("regions_class_order") or ()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} has no labels of nnU-Net's, such as {{'background': 0, 'liver': 1}} ({type(error).__name__}); "
            "name the model's dataset.json with -m"
        ) from None
    ignored = values.pop(_IGNORE, (None,))[0]
    structures = [Structure(name=name, labels=labels) for name, labels in values.items() if any(labels)]
    if not structures or not all(0 < label <= _MOST_LABELS for one in structures for label in one.labels):
        raise InputError(f"{path} names no foreground label from 1 to {_MOST_LABELS}, found {sorted(values.values())[:5]}")
    if not any(len(structure.labels) > 1 for structure in structures):
        structures.sort(key=lambda structure: structure.labels)
    # nnU-Net writes for each region the number that stands in this list.
    elif len(order) != len(structures) or any(number not in one.labels for one, number in zip(structures, order, strict=True)):
        raise InputError(
            f"{path}: expected regions_class_order to name a label of each of the {len(structures)} regions, in their order, found {order}"
        )
    return Structures(all=tuple(structures), ignored=ignored)


def checked_labels(values: np.ndarray, structures: Structures) -> np.ndarray:
    """A prediction's voxels as the smallest unsigned integers, what nobody labelled taken for background.

    Raises
    ------
    InputError
        For NaN, fractions, or values that no structure has.
    """
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise InputError("expected a prediction of whole numbers, found NaN or fractions; are these probabilities, or a scan?")
    known = {0, *(label for structure in structures.all for label in structure.labels)}
    low, high = values.min(), values.max()
    if low < 0 or high > max(*known, structures.ignored or 0):
        raise InputError(_unknown([low if low < 0 else high], known))
    labels = values.astype(np.uint8 if max(*known, structures.ignored or 0) < 256 else np.uint16)
    found = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    if structures.ignored in found and structures.ignored not in known:
        log.info("voxels of the label 'ignore' (%d) are taken for background", structures.ignored)
        labels[labels == structures.ignored] = 0
        found.remove(structures.ignored)
    if unknown := [label for label in found if label not in known]:
        raise InputError(_unknown(unknown, known))
    return labels


def _unknown(found: Sequence[float], known: set[int]) -> str:
    named = ", ".join(f"{value:g}" for value in found[:5])
    return f"the prediction holds the label {named}, dataset.json names {_ranges(known)}; if it is of another model, name that with -m"


def _ranges(numbers: set[int]) -> str:
    ordered = sorted(numbers)
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) == ordered[-1] - ordered[0] + 1 else ", ".join(map(str, ordered))


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or int(value) != float(value):
        raise ValueError("no whole number")
    return int(value)
