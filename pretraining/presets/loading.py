"""Loading of bundled presets and of preset files."""

from __future__ import annotations

from importlib import resources

from pretraining.common.config import Config, read_json
from pretraining.common.errors import InputError


def preset_names() -> list[str]:
    """List the names of the bundled presets."""
    files = [entry.name for entry in resources.files("pretraining.presets").iterdir()]
    return sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))


def load_preset(kind: type[Config], name: str) -> Config:
    """Read a bundled preset or a preset file.

    Args:
        kind: Dataclass to build.
        name: Name of a bundled preset (see :func:`preset_names`), or path of a ``.json`` file.

    Raises:
        InputError: If there is no such preset, or the file is not valid.
    """
    if name.endswith(".json"):
        return read_json(kind, name)
    if name not in preset_names():
        raise InputError(f"no preset '{name}', found {preset_names()}; choose one of these or a .json file")
    with resources.as_file(resources.files("pretraining.presets") / f"{name}.json") as path:
        return read_json(kind, path)
