"""``nnunet-anatomix weights``: which weights would be used, and what their card says."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import tyro


def weights(file: Annotated[str | None, tyro.conf.Positional] = None, json_card: bool = False) -> None:
    """Show the card of a weights file: what it was trained on, for how long, how it was judged, under which licence.

    Args:
        file: .safetensors, published .pth, or hf://owner/repo/file@revision; ANATOMIX_WEIGHTS or
            the bundled file if left out.
        json_card: The whole card as JSON, the training's configuration included.
    """
    from pretraining.backbone.weights import find_weights, load_weights  # imports torch, which --help does without

    path = find_weights(file)
    found = load_weights(path)
    parameters = sum(tensor.numel() for tensor in found.state.values() if tensor.is_floating_point())
    if json_card:
        sys.stdout.write(json.dumps(found.card, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{path}\nparameters                 {parameters:,}\nsha256                     {found.sha256}\n"
        + "".join(_lines(found.card))
    )


def _lines(card: dict[str, Any]) -> list[str]:
    """A line a fact of the card; nested facts indented, the configuration left to ``--json-card``."""
    lines = []

    def add(name: str, value: Any, indent: int) -> None:
        label = f"{'  ' * indent}{name}"
        if isinstance(value, dict):
            lines.append(f"{label}\n")
            for inner, fact in value.items():
                add(inner, fact, indent + 1)
        else:
            lines.append(f"{label:26} {value}\n")

    for name, value in card.items():
        if name not in ("config", "sha256"):
            add(name, value, 0)
    return lines or ["no card: the file tells nothing of its training\n"]
