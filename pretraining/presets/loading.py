"""Bundled presets, and preset files of the user."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from pretraining.common.config import Config, read_json
from pretraining.common.errors import InputError

if TYPE_CHECKING:
    pass


def preset_names() -> list[str]:
    """Names that :func:`load_preset` accepts."""
    files = [entry.name for entry in resources.files("pretraining.presets").iterdir()]
    return sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))


def load_preset(kind: type[Config], name: str) -> Config:
    """Read the bundled preset ``name`` (see :func:`preset_names`) or, if it ends in ``.json``, a file of the user's."""
    if name.endswith(".json"):
        return read_json(kind, name)
    if name not in preset_names():
        raise InputError(f"no preset '{name}'; there are {preset_names()}, or name a .json file")
    with resources.as_file(resources.files("pretraining.presets") / f"{name}.json") as path:
        return read_json(kind, path)
