"""What a dataset.json says about labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretraining.errors import InputError

_SEE = "see dataset_format.md of nnU-Net"


def require_labels(dataset_name: str, description: Mapping[str, Any]) -> None:
    """Refuse labels that nnU-Net would stumble over, or that leave nothing to learn.

    Args:
        dataset_name: For messages.
        description: The dataset.json.

    Raises:
        InputError: Unless there are names with numbers, a background of 0, a foreground, consecutive numbers, the ignore label last,
            and for regions an order of classes that fits them.
    """
    labels, where = description.get("labels"), f"dataset.json of {dataset_name}"
    if not isinstance(labels, Mapping) or not all(map(_is_label, labels.values())):
        raise InputError(f"{where}: expected labels as names with a number or a list of numbers, found {str(labels)[:120]}; {_SEE}")
    if labels.get("background") != 0:
        raise InputError(f'{where}: expected the label "background": 0, found {labels.get("background", "none")}; {_SEE}')
    foreground = {name: value for name, value in labels.items() if name != "ignore" and set(_numbers(value)) != {0}}
    if not foreground:
        raise InputError(f"{dataset_name} has no foreground label in dataset.json; fine-tuning needs one")
    known = {0}.union(*map(_numbers, foreground.values()))
    if "ignore" in labels and labels["ignore"] != max(known) + 1:
        raise InputError(f"{where}: expected {max(known) + 1} for the label ignore, after all others, found {labels['ignore']}; {_SEE}")
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        order = description.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(foreground) or not all(_is_number(value) for value in order):
            raise InputError(
                f"{where}: expected regions_class_order with a number for each of the {len(foreground)} regions, found {order}; {_SEE}"
            )
    elif known != set(range(len(known))):
        raise InputError(f"{where}: expected the labels 0 to {len(known) - 1}, found {sorted(known)}; renumber them without gaps")


def _is_label(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list) and bool(value) and all(map(_is_number, value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]
