"""Shipped JSON files of published networks, completed with a user's weights file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pretraining.common.atomic import write_text
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError
from pretraining.common.outputs import try_file

NAMES = ("primgeoseg", "smit", "disruptive_ae", "models_genesis", "medicalnet")
"""Names of the shipped files, which are the paper's rows in lower case."""


def shipped(name: str) -> dict[str, Any]:
    """Return the content of a shipped file.

    Args:
        name: One of :data:`NAMES`.
    """
    return json.loads(resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def write_baseline(name: str, weights: Path, out: Path | None = None) -> Path:
    """Write the JSON file of a published network, after checking that the weights fit it.

    Args:
        name: One of :data:`NAMES`.
        weights: Downloaded weights file.
        out: File to write. Default: ``NAME.json`` in the folder of the weights.

    Returns:
        The written file.

    Raises:
        InputError: If the weights are missing, damaged or of another network.
    """
    # Import torch, which --help does not need.
    from pretraining.backbone.external_weights import build_network, load_state, read_external_state
    from pretraining.backbone.network_spec import NetworkSpec

    out = weights.with_name(f"{name}.json") if out is None else out
    try_file(out, "--out")
    if not weights.is_file():
        raise InputError(f"no weights file {weights}; docs/how-to/baselines.md says where to download it")
    content = shipped(name) | {"state": str(weights.resolve())}
    spec = from_dict(NetworkSpec, content)
    load_state(build_network(spec, name), read_external_state(spec, weights), spec, str(weights), allow_new=True)
    write_text(out, json.dumps(content, indent=2) + "\n")
    return out
