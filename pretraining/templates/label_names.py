"""Names of the numbers in label maps, from a ``labels.json`` or a ``dataset.json`` of nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE, IGNORE, parse_labels, read_object
from pretraining.templates.report import Rejection

LABELS_FILE = "labels.json"

Names = dict[int, str | None]
"""Map from number to name; None for a number that is not an organ."""


def read_label_names(path: Path) -> tuple[Names, Rejection | None]:
    """Read the names of the numbers in a folder's label maps.

    Args:
        path: A ``labels.json``, {organ: number}, or a ``dataset.json`` of nnU-Net.

    Returns:
        Names, and a line for the report if the file is invalid. Without a valid file, there are no
        names.
    """
    is_dataset = path.name == DATASET_FILE
    expected = '"labels": {"organ": number or [numbers], ...}' if is_dataset else '{"organ": number, ...}'
    if not path.exists():
        return {}, None
    try:
        content = read_object(path)
        return names_in(content.get("labels") if is_dataset else content), None
    except InputError as error:
        return {}, Rejection(str(path), f"expected {expected}, so labels are named by number ({error})")


def names_in(labels: Any) -> Names:
    """Invert the declaration of labels: return the name of each number.

    Args:
        labels: {name: number}, {name: [numbers]} for nnU-Net's regions, or {"number": name} of
            older datasets.

    Returns:
        Map from number to name, without 0. A number of several regions has the name of the smallest
        one: of nested regions, such as a tumour and its core, each keeps the part outside the inner
        ones.

    Raises:
        InputError: If ``labels`` has none of these forms.
    """
    named: Names = {}
    sizes: dict[int, int] = {}
    for name, numbers in parse_labels(labels, "labels", older=True).items():
        for number in numbers:
            if number and len(numbers) < sizes.get(number, len(numbers) + 1):
                named[number], sizes[number] = (None if name.lower() == IGNORE else name), len(numbers)
    return named
