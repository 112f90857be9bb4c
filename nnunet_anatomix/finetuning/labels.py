"""What a dataset.json says about labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretraining.errors import InputError
from pretraining.imaging.dataset_json import IGNORE, DatasetJson


def require_labels(dataset_name: str, description: Mapping[str, Any]) -> None:
    """Refuse labels that nnU-Net would stumble over, or that leave nothing to learn.

    Args:
        dataset_name: For messages.
        description: The dataset.json.

    Raises:
        InputError: Unless there are names with numbers, a background of 0, a foreground, consecutive numbers, the ignore label last,
            and for regions an order of classes that fits them.
    """
    where = f"dataset.json of {dataset_name}"
    described = DatasetJson(where=where, content=description)
    described.require_background()
    if not described.foreground:
        raise InputError(f"{dataset_name} has no foreground label in dataset.json; fine-tuning needs one")
    known = {0}.union(*described.foreground.values())
    if IGNORE in described.labels and (found := description["labels"][IGNORE]) != max(known) + 1:
        raise InputError(f"{where}: expected {max(known) + 1} for the label ignore, after all others, found {found}; renumber the labels")
    if described.has_regions:
        described.require_region_numbers()
    elif known != set(range(len(known))):
        raise InputError(f"{where}: expected the labels 0 to {len(known) - 1}, found {sorted(known)}; renumber them without gaps")
