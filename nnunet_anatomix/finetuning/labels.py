"""What a dataset.json says about labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretraining.errors import InputError


def require_foreground(dataset_name: str, labels: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` unless ``labels`` name anything besides background and the ignore label."""
    if not any(value not in (0, [0]) for name, value in labels.items() if name != "ignore"):
        raise InputError(f"{dataset_name} has no foreground label in dataset.json; fine-tuning needs one")
