"""The structures that a model segments, as nnU-Net's ``dataset.json`` names them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import IGNORE, read_dataset_json

log = logging.getLogger(__name__)

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

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, names no foreground, or its ``regions_class_order``
            contradicts its regions.
    """
    described = read_dataset_json(path)
    labels, foreground = described.labels, described.foreground
    structures = [Structure(name=name, labels=tuple(sorted(set(numbers)))) for name, numbers in foreground.items()]
    if not structures or not all(0 < label <= _MOST_LABELS for one in structures for label in one.labels):
        found = sorted(numbers for name, numbers in labels.items() if name != IGNORE)[:5]
        raise InputError(
            f"{path} names no foreground label from 1 to {_MOST_LABELS}, found {found}; name another dataset.json with -m"
        )
    if described.has_regions:
        described.require_region_numbers()
    else:
        structures.sort(key=lambda structure: structure.labels)
    ignored = labels.get(IGNORE, (None,))[0]
    return Structures(all=tuple(structures), ignored=ignored)


def checked_labels(values: np.ndarray, structures: Structures) -> np.ndarray:
    """A prediction's voxels as the smallest unsigned integers, what nobody labelled taken for background.

    Raises:
        InputError: For NaN, fractions, or values that no structure has.
    """
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise InputError(
            "expected a prediction of whole numbers, found NaN or fractions; are these probabilities, or a scan?"
        )
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
    return (
        f"{ordered[0]} to {ordered[-1]}"
        if len(ordered) == ordered[-1] - ordered[0] + 1
        else ", ".join(map(str, ordered))
    )
