"""Names of the numbers in label maps: a folder's ``labels.json``, or the ``dataset.json`` of an nnU-Net dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import DATASET_FILE, IGNORE, parse_labels, read_object
from pretraining.templates.report import Rejection

LABELS_FILE = "labels.json"

Names = dict[int, str | None]
"""Number to name; None for a number that is no organ."""


def read_label_names(path: Path) -> tuple[Names, Rejection | None]:
    """Read what numbers are called, and the problem with the file, if any.

    Args:
        path: A ``labels.json``, {organ: number}, or a ``dataset.json`` as nnU-Net has it.

    Returns:
        Names, none if there is no such file or it makes no sense; in the latter case, one line that
        says so.
    """
    is_dataset = path.name == DATASET_FILE
    expected = '"labels": {"organ": number or [numbers], ...}' if is_dataset else '{"organ": number, ...}'
    if not path.exists():
        return {}, None
    try:
        content = read_object(path)
        return names_in(content.get("labels") if is_dataset else content), None
    except InputError as error:
        return {}, Rejection(str(path), f"expected {expected}, so labels go by number ({error})")


def names_in(labels: Any) -> Names:
    """Turn names and numbers around.

    Args:
        labels: {name: number}, {name: [numbers]} for nnU-Net's regions, or {"number": name} as
            older datasets have it.

    Returns:
        Number to name, without 0. A number of several regions is named after the smallest: of
            nested regions, such as a
        tumour and its core, each is what is left of it outside those within.

    Raises:
        InputError: If it is neither.
    """
    named: Names = {}
    sizes: dict[int, int] = {}
    for name, numbers in parse_labels(labels, "labels", older=True).items():
        for number in numbers:
            if number and len(numbers) < sizes.get(number, len(numbers) + 1):
                named[number], sizes[number] = (None if name.lower() == IGNORE else name), len(numbers)
    return named
