"""Names of the numbers in label maps: a folder's ``labels.json``, or the ``dataset.json`` of an nnU-Net dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretraining.engine.rejection import Rejection

LABELS_FILE = "labels.json"
DATASET_FILE = "dataset.json"
IGNORE = "ignore"
"""nnU-Net's name of the label of voxels that nobody has labelled."""

Names = dict[int, str | None]
"""Number to name; None for a number that is no organ."""


def read_label_names(path: Path) -> tuple[Names, Rejection | None]:
    """Read what numbers are called, and the problem with the file, if any.

    Args:
        path: A ``labels.json``, {organ: number}, or a ``dataset.json`` as nnU-Net has it.

    Returns:
        Names, none if there is no such file or it makes no sense; in the latter case, one line that says so.
    """
    is_dataset = path.name == DATASET_FILE
    expected = '"labels": {"organ": number or [numbers], ...}' if is_dataset else '{"organ": number, ...}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return names_in(content["labels"] if is_dataset else content), None
    except FileNotFoundError:
        return {}, None
    except KeyError as error:
        why = f"there is no {error}"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        why = str(error).splitlines()[0]
    return {}, Rejection(str(path), f"expected {expected}, so labels go by number ({why})")


def names_in(labels: dict[str, Any]) -> Names:
    """Turn names and numbers around.

    Args:
        labels: {name: number}, {name: [numbers]} for nnU-Net's regions, or {"number": name} as older datasets have it.

    Returns:
        Number to name, without 0. A number of several regions is named after the smallest: of nested regions, such as a
        tumour and its core, each is what is left of it outside those within.

    Raises:
        AttributeError, TypeError, ValueError: If it is neither.
    """
    named: Names = {}
    sizes: dict[int, int] = {}
    for key, value in labels.items():
        if isinstance(value, str) and key.isdigit():
            name, numbers = value, [int(key)]
        else:
            name, numbers = key, [_number(item) for item in (value if isinstance(value, list) else [value])]
        for number in numbers:
            if number and len(numbers) < sizes.get(number, len(numbers) + 1):
                named[number], sizes[number] = (None if name.lower() == IGNORE else name), len(numbers)
    return named


def _number(value: Any) -> int:
    number = -1 if isinstance(value, bool) else int(value)
    if number < 0 or (isinstance(value, float) and number != value):
        raise ValueError(f"{value!r} is no number of a label")
    return number
