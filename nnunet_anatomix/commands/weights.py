"""Command ``nnunet-anatomix weights``: show the weights in use and their card."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import tyro


def weights(file: Annotated[str | None, tyro.conf.Positional] = None, json_card: bool = False) -> None:
    """Show the card of a weights file: training, evaluation, licence.

    Args:
        file: Weights file (.safetensors or published .pth), or hf://owner/repo/file@revision.
            Default: ANATOMIX_WEIGHTS, or the bundled file.
        json_card: Print the whole card as JSON, including the training's configuration.
    """
    from pretraining.backbone.find_weights import find_weights
    from pretraining.backbone.weights import load_weights  # imports torch, which --help does not need

    path = find_weights(file)
    loaded = load_weights(path)
    parameters = sum(tensor.numel() for tensor in loaded.state.values() if tensor.is_floating_point())
    if json_card:
        sys.stdout.write(json.dumps(loaded.card, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{path}\nparameters                 {parameters:,}\nsha256                     {loaded.sha256}\n"
        + "".join(_format_card(loaded.card))
    )


def _format_card(card: dict[str, Any]) -> list[str]:
    """Format a card as one line per entry, nested entries indented, without the configuration."""
    lines = []

    def add(name: str, value: Any, indent: int) -> None:
        label = f"{'  ' * indent}{name}"
        if isinstance(value, dict):
            lines.append(f"{label}\n")
            for inner, entry in value.items():
                add(inner, entry, indent + 1)
        else:
            lines.append(f"{label:26} {value}\n")

    for name, value in card.items():
        if name not in ("config", "sha256"):
            add(name, value, 0)
    return lines or ["no card: the file does not describe its training\n"]
