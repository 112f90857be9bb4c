"""Structures that a model segments, read from nnU-Net's ``dataset.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import IGNORE, read_dataset_json

log = logging.getLogger(__name__)

_MAX_LABEL = 65_535
"""Largest 16-bit label, and largest number of DICOM segments."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Label, or region of several labels."""

    name: str
    labels: tuple[int, ...]
    """Label values in a prediction, ascending."""


@dataclass(frozen=True, kw_only=True)
class Structures:
    """All structures of a model; regions may overlap."""

    all: tuple[Structure, ...]
    """Structures in the order of labels; with regions, in the order of ``dataset.json``."""
    ignored: int | None = None
    """Value of the ignore label, if any."""

    @property
    def overlap(self) -> bool:
        """True if a label belongs to several structures."""
        named = [label for structure in self.all for label in structure.labels]
        return len(named) > len(set(named))

    def mask(self, labels: np.ndarray, structure: Structure) -> np.ndarray:
        """Return the mask of a structure: boolean, of the shape of ``labels``."""
        return labels == structure.labels[0] if len(structure.labels) == 1 else np.isin(labels, structure.labels)

    def count_voxels(self, labels: np.ndarray) -> dict[str, int]:
        """Return the number of voxels of each structure in a prediction."""
        greatest = max(max(structure.labels) for structure in self.all)
        # numpy counts a copy as int64, so count plane by plane.
        counts = np.sum([np.bincount(plane.ravel(), minlength=1 + greatest) for plane in labels], axis=0)
        return {structure.name: int(counts[list(structure.labels)].sum()) for structure in self.all}


def read_structures(path: Path) -> Structures:
    """Read ``labels`` of a ``dataset.json``.

    Args:
        path: Path of the file.

    Raises:
        InputError: If it cannot be read, has no foreground label, or its ``regions_class_order``
            contradicts its regions.
    """
    described = read_dataset_json(path)
    labels, foreground = described.labels, described.foreground
    structures = [Structure(name=name, labels=tuple(sorted(set(numbers)))) for name, numbers in foreground.items()]
    if not structures or not all(0 < label <= _MAX_LABEL for one in structures for label in one.labels):
        found = sorted(numbers for name, numbers in labels.items() if name != IGNORE)[:5]
        raise InputError(
            f"{path}: expected foreground labels from 1 to {_MAX_LABEL}, found {found}; give another dataset.json to -m"
        )
    if described.has_regions:
        described.require_region_numbers()
    else:
        structures.sort(key=lambda structure: structure.labels)
    ignored = labels.get(IGNORE, (None,))[0]
    return Structures(all=tuple(structures), ignored=ignored)


def check_labels(values: np.ndarray, structures: Structures) -> np.ndarray:
    """Return a prediction as the smallest unsigned integer type, with ignored voxels as background.

    Raises:
        InputError: For NaN, fractions, or values that belong to no structure.
    """
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise InputError(
            "expected integer labels, found NaN or fractions; deliver label maps, not probabilities or scans"
        )
    known = {0, *(label for structure in structures.all for label in structure.labels)}
    low, high = values.min(), values.max()
    if low < 0 or high > max(*known, structures.ignored or 0):
        raise InputError(_describe_unknown_labels([low if low < 0 else high], known))
    labels = values.astype(np.uint8 if max(*known, structures.ignored or 0) < 256 else np.uint16)
    found = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    if structures.ignored in found and structures.ignored not in known:
        log.info("voxels of the label 'ignore' (%d) are set to background", structures.ignored)
        labels[labels == structures.ignored] = 0
        found.remove(structures.ignored)
    if unknown := [label for label in found if label not in known]:
        raise InputError(_describe_unknown_labels(unknown, known))
    return labels


def _describe_unknown_labels(found: Sequence[float], known: set[int]) -> str:
    named = ", ".join(f"{value:g}" for value in found[:5])
    return (
        f"the prediction contains the label {named}, expected labels of dataset.json: {_format_range(known)}; "
        "use -m if it belongs to another model"
    )


def _format_range(numbers: set[int]) -> str:
    ordered = sorted(numbers)
    return (
        f"{ordered[0]} to {ordered[-1]}"
        if len(ordered) == ordered[-1] - ordered[0] + 1
        else ", ".join(map(str, ordered))
    )
