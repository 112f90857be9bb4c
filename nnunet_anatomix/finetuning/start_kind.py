"""Kinds of weights to start from, told apart without reading them."""

from __future__ import annotations

from pathlib import Path

from pretraining.backbone.find_weights import HUB
from pretraining.common.archive import mentions
from pretraining.common.errors import InputError

NNSSL_PLAN = "nnssl_adaptation_plan"
"""Key of the description in a checkpoint of nnssl."""


def is_other(path: Path) -> bool:
    """Tell whether a weights file belongs to another network than the backbone.

    Args:
        path: File.

    Returns:
        True for ``.json`` files and for checkpoints of nnssl.
    """
    return path.suffix == ".json" or (path.suffix in (".pth", ".pt") and mentions(path, NNSSL_PLAN))


def check_trust(address: str) -> None:
    """Refuse a JSON file from the hub, because it names code that training would run.

    Args:
        address: Path or ``hf://`` address.

    Raises:
        InputError: For a ``.json`` file from the hub.
    """
    if address.startswith(HUB) and address.partition("@")[0].endswith(".json"):
        raise InputError(
            f"{address} names code that training would run, expected a local file; "
            "download it with its weights, and read it first"
        )
