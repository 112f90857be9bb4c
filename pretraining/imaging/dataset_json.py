"""nnU-Net's ``dataset.json``: read in one place, and refused in one line each for whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.common.errors import InputError

DATASET_FILE = "dataset.json"
IGNORE = "ignore"
"""nnU-Net's name of the label of voxels that nobody has labelled."""
BACKGROUND = "background"
_SEE = "see dataset_format.md of nnU-Net"

Labels = dict[str, tuple[int, ...]]
"""Name to the numbers it is made of: one for a label, several for a region."""


@dataclass(frozen=True, kw_only=True)
class DatasetJson:
    """What a ``dataset.json`` says; each part is checked when it is asked for, since not every file needs all of them."""

    where: str
    """The file, for messages."""
    content: Mapping[str, Any]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in their order; older files have them as ``modality``.

        Raises:
            InputError: Unless there is an object with numbers from 0 on.
        """
        names = self.content.get("channel_names", self.content.get("modality"))
        if not isinstance(names, Mapping) or not names or set(map(str, names)) != set(map(str, range(len(names)))):
            raise self._refusal('channel_names such as {"0": "CT"}, numbered from 0 on', names)
        by_number = {str(number): str(name) for number, name in names.items()}
        return tuple(by_number[str(number)] for number in range(len(by_number)))

    @property
    def file_ending(self) -> str:
        """How files end, with the dot.

        Raises:
            InputError: Unless it is there, a text, and begins with a dot.
        """
        ending = self.content.get("file_ending")
        if not isinstance(ending, str) or not ending.startswith("."):
            raise self._refusal("a file_ending such as .nii.gz", ending)
        return ending

    @property
    def labels(self) -> Labels:
        """Labels and regions, in the order of the file, background among them if the file names it.

        Raises:
            InputError: Unless each name has a whole number, or a list of such.
        """
        return parse_labels(self.content.get("labels"), self.where)

    @property
    def foreground(self) -> Labels:
        """The labels and regions that are neither background nor to be ignored; may be empty."""
        return {name: numbers for name, numbers in self.labels.items() if name != IGNORE and any(numbers)}

    @property
    def has_regions(self) -> bool:
        """Whether any name stands for several numbers."""
        return any(len(set(numbers)) > 1 for numbers in self.labels.values())

    def require_region_numbers(self) -> None:
        """Refuse regions without numbers, which ``regions_class_order`` holds: what nnU-Net writes for each of the foreground's regions.

        Raises:
            InputError: Unless there is one for each region, in the order of the regions, and it is
                one of the region's own.
        """
        order, regions = self.content.get("regions_class_order"), self.foreground
        if (
            not isinstance(order, Sequence)
            or len(order) != len(regions)
            or not all(
                _is_number(number) and number in its for number, its in zip(order, regions.values(), strict=True)
            )
        ):
            raise self._refusal(f"regions_class_order with one number of each of the {len(regions)} regions", order)

    def require_background(self) -> None:
        """Refuse labels without a background.

        Raises:
            InputError: Unless the label ``background`` is 0; nnU-Net takes no list here.
        """
        found = self.content["labels"].get(BACKGROUND) if self.labels else None
        if found != 0:
            raise self._refusal('the label "background": 0', found)

    def _refusal(self, expected: str, found: Any) -> InputError:
        return _refusal(self.where, expected, found)


def read_dataset_json(path: Path) -> DatasetJson:
    """Read a ``dataset.json``.

    Args:
        path: The file.

    Raises:
        InputError: If it cannot be read, is no JSON, or holds no object.
    """
    return DatasetJson(where=str(path), content=read_object(path))


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: If it cannot be read, is no JSON, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({str(error).splitlines()[0]}); expected JSON, {_SEE}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected an object; {_SEE}")
    return content


def parse_labels(labels: Any, where: str, *, older: bool = False) -> Labels:
    """The names and numbers of labels.

    Args:
        labels: {name: number}, or {name: [numbers]} for nnU-Net's regions.
        where: The file, for messages.
        older: Whether {"number": name}, as datasets before nnU-Net's second version have it, and
            numbers as texts will do, too.

    Raises:
        InputError: If it is anything else.
    """
    refusal = _refusal(where, "labels as names with a number or a list of numbers", labels)
    if not isinstance(labels, Mapping):
        raise refusal
    numbers: Labels = {}
    for key, value in labels.items():
        if older and isinstance(value, str) and key.isdigit():
            numbers[value] = (*numbers.get(value, ()), int(key))
            continue
        listed = value if isinstance(value, list) else [value]
        whole = [_whole(item) if older else item for item in listed]
        if not whole or not all(map(_is_number, whole)):
            raise refusal
        numbers[str(key)] = tuple(whole)
    return numbers


def _whole(value: Any) -> Any:
    """A whole number that is written as a text or with a point; anything else as it is."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _refusal(where: str, expected: str, found: Any) -> InputError:
    said = "none" if found is None else json.dumps(found, ensure_ascii=False, default=str)[:120]
    return InputError(f"{where}: expected {expected}, found {said}; {_SEE}")
