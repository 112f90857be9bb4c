"""Configurations: frozen dataclasses that are JSON presets and command-line flags alike.

Each idea defines its own dataclass beside its code and checks itself in ``__post_init__``; this
module only carries them to JSON and back, strictly: a key nobody knows is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dacite

from pretraining.common.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of JSON types; tuples become lists, so that it equals what :func:`read_json` finds on disk."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[Config], data: dict[str, Any]) -> Config:
    """Build ``kind`` from a nested dict; keys left out keep their defaults.

    Raises:
        InputError: For an unknown key, a value of the wrong type, a number that is not finite or a
            value that the dataclass refuses.
    """
    check_finite(data, kind.__name__)
    try:
        config = dacite.from_dict(kind, data, dacite.Config(strict=True, cast=[tuple, float]))
    except dacite.UnexpectedDataError as error:
        known = sorted(field.name for field in dataclasses.fields(kind))
        raise InputError(
            f"{kind.__name__}: unknown keys {sorted(error.keys)}; known at the top level are {known}"
        ) from None
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise InputError(f"{kind.__name__}: {error}") from None
    check_finite(config)  # once more: text may have become a number
    return config


def check_finite(config: Any, name: str | None = None) -> None:
    """Look at every number of a configuration.

    Args:
        config: A dataclass, or the nested dict of one.
        name: What the error calls it; by default its class.

    Raises:
        InputError: If a number is NaN or infinite; its field is named.
    """
    for field, number in not_finite(config):
        raise InputError(f"{name or type(config).__name__}: {field} must be a finite number, got {number}")


def not_finite(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Find the numbers that are NaN or infinite, however deep in dataclasses, dicts, tuples and lists, with their dotted names."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield name, value
    elif isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        named = (
            value
            if isinstance(value, Mapping)
            else {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        )
        for key, part in named.items():
            yield from not_finite(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list):
        for position, part in enumerate(value):
            yield from not_finite(part, f"{name}[{position}]")


def read_json(kind: type[Config], path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        InputError: If the file is no JSON object or :func:`from_dict` refuses it.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON ({error}); expected a {kind.__name__} as written by an earlier run"
        ) from None
    if not isinstance(data, dict):
        raise InputError(
            f"{path} holds a {type(data).__name__}; expected a JSON object with the fields of {kind.__name__}"
        )
    try:
        return from_dict(kind, data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def differences(old: Any, new: Any) -> list[str]:
    """Dotted names of the fields in which two configurations of one class differ."""

    def walk(a: Any, b: Any, prefix: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = sorted(a.keys() | b.keys())
            return [line for key in keys for line in walk(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)]
        return [] if a == b else [f"{prefix}: {a} -> {b}"]

    return walk(to_dict(old), to_dict(new), "")
