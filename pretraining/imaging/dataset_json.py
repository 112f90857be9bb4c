"""Reading and validation of nnU-Net's ``dataset.json``, with one-line errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.common.errors import InputError

DATASET_FILE = "dataset.json"
IGNORE = "ignore"
"""nnU-Net's name for the label of unannotated voxels."""
BACKGROUND = "background"
_SEE = "see dataset_format.md of nnU-Net"

Labels = dict[str, tuple[int, ...]]
"""Name → label values: one for a label, several for a region."""


@dataclass(frozen=True, kw_only=True)
class DatasetJson:
    """Content of a ``dataset.json``.

    Each part is validated on access, since not every file needs all parts.
    """

    where: str
    """Name of the file for messages."""
    content: Mapping[str, Any]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in order; older files store them as ``modality``.

        Raises:
            InputError: Unless it is an object with the keys "0", "1", ...
        """
        names = self.content.get("channel_names", self.content.get("modality"))
        if not isinstance(names, Mapping) or not names or set(map(str, names)) != set(map(str, range(len(names)))):
            raise self._error('channel_names such as {"0": "CT"}, numbered from 0 on', names)
        by_number = {str(number): str(name) for number, name in names.items()}
        return tuple(by_number[str(number)] for number in range(len(by_number)))

    @property
    def file_ending(self) -> str:
        """Suffix of the files, with the dot.

        Raises:
            InputError: Unless it is a text that begins with a dot.
        """
        ending = self.content.get("file_ending")
        if not isinstance(ending, str) or not ending.startswith("."):
            raise self._error("a file_ending such as .nii.gz", ending)
        return ending

    @property
    def labels(self) -> Labels:
        """Labels and regions in the order of the file, including the background if it is named.

        Raises:
            InputError: Unless each name has an integer or a list of integers.
        """
        return parse_labels(self.content.get("labels"), self.where)

    @property
    def foreground(self) -> Labels:
        """Labels and regions except background and ``ignore``; may be empty."""
        return {name: numbers for name, numbers in self.labels.items() if name != IGNORE and any(numbers)}

    @property
    def has_regions(self) -> bool:
        """True if any name has several label values."""
        return any(len(set(numbers)) > 1 for numbers in self.labels.values())

    def require_region_numbers(self) -> None:
        """Refuse regions without a valid ``regions_class_order``.

        It holds the value that nnU-Net writes for each foreground region.

        Raises:
            InputError: Unless it has one value per region, in the order of the regions, and each
                belongs to its region.
        """
        order, regions = self.content.get("regions_class_order"), self.foreground
        if (
            not isinstance(order, Sequence)
            or len(order) != len(regions)
            or not all(
                _is_label_value(value) and value in values
                for value, values in zip(order, regions.values(), strict=True)
            )
        ):
            raise self._error(f"regions_class_order with one number of each of the {len(regions)} regions", order)

    def require_background(self) -> None:
        """Refuse labels without a background.

        Raises:
            InputError: Unless the label ``background`` is 0; nnU-Net accepts no list here.
        """
        found = self.content["labels"].get(BACKGROUND) if self.labels else None
        if found != 0:
            raise self._error('the label "background": 0', found)

    def _error(self, expected: str, found: Any) -> InputError:
        return _format_error(self.where, expected, found)


def read_dataset_json(path: Path) -> DatasetJson:
    """Read a ``dataset.json``.

    Args:
        path: File to read.

    Raises:
        InputError: If it cannot be read, is not JSON, or is not an object.
    """
    return DatasetJson(where=str(path), content=read_object(path))


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        path: File to read.

    Raises:
        InputError: If it cannot be read, is not JSON, or is not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({str(error).splitlines()[0]}); expected JSON, {_SEE}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected an object; {_SEE}")
    return content


def parse_labels(labels: Any, where: str, *, older: bool = False) -> Labels:
    """Parse the names and values of labels.

    Args:
        labels: {name: number}, or {name: [numbers]} for nnU-Net's regions.
        where: Name of the file for messages.
        older: Whether to accept also {"number": name}, the format before nnU-Net version 2, and
            numbers as texts.

    Returns:
        Name → label values.

    Raises:
        InputError: For any other format.
    """
    error = _format_error(where, "labels as names with a number or a list of numbers", labels)
    if not isinstance(labels, Mapping):
        raise error
    if not older and labels and all(str(key).isdigit() and isinstance(name, str) for key, name in labels.items()):
        swapped = json.dumps({name: int(key) for key, name in labels.items()}, ensure_ascii=False)
        raise InputError(
            f"{where}: expected labels as names with a number, found the format before nnU-Net version 2; "
            f"write {swapped[:120]}"
        )
    numbers: Labels = {}
    for key, value in labels.items():
        if older and isinstance(value, str) and key.isdigit():
            numbers[value] = (*numbers.get(value, ()), int(key))
            continue
        items = value if isinstance(value, list) else [value]
        values = [_to_integer(item) if older else item for item in items]
        if not values or not all(map(_is_label_value, values)):
            raise error
        numbers[str(key)] = tuple(values)
    return numbers


def _to_integer(value: Any) -> Any:
    """Convert integers written as text or as float; return any other value unchanged."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_label_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _format_error(where: str, expected: str, found: Any) -> InputError:
    shown = "none" if found is None else json.dumps(found, ensure_ascii=False, default=str)[:120]
    return InputError(f"{where}: expected {expected}, found {shown}; {_SEE}")
