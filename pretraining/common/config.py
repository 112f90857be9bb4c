"""Conversion of configurations between frozen dataclasses and JSON.

The same dataclasses define JSON presets and command-line flags. Each is defined next to the code
that uses it and validates itself in ``__post_init__``. The conversion is strict: an unknown key is
an error that names it.
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
    """Convert a configuration to a nested dict of JSON types.

    Tuples become lists, so that the result equals the content of the file on disk.

    Args:
        config: Dataclass instance.
    """
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[Config], data: dict[str, Any]) -> Config:
    """Build a configuration from a nested dict; missing keys keep their defaults.

    Args:
        kind: Dataclass to build.
        data: Field names to values.

    Raises:
        InputError: For an unknown key, a value of the wrong type, a number that is not finite, or
            a value that the dataclass refuses.
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
    check_finite(config)  # again: the cast may have turned text into a number
    return config


def check_finite(config: Any, name: str | None = None) -> None:
    """Refuse a configuration that contains NaN or infinity.

    Args:
        config: Dataclass instance, or its nested dict.
        name: Name of the configuration in the error. Default: its class.

    Raises:
        InputError: If a number is NaN or infinite; the message names its field.
    """
    for field, number in not_finite(config):
        raise InputError(f"{name or type(config).__name__}: {field} must be a finite number, got {number}")


def not_finite(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Find all numbers that are NaN or infinite in nested dataclasses, dicts, tuples and lists.

    Args:
        value: Value to search.
        name: Dotted name of ``value``.

    Yields:
        (dotted name, number).
    """
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

    Args:
        kind: Dataclass to build.
        path: JSON file.

    Raises:
        InputError: If the file is not a JSON object, or :func:`from_dict` refuses it.
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
    """List the fields in which two configurations of one class differ.

    Args:
        old: First configuration.
        new: Second configuration.

    Returns:
        Lines such as ``engine.side: 128 -> 96``, sorted by field name.
    """

    def walk(a: Any, b: Any, prefix: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = sorted(a.keys() | b.keys())
            return [line for key in keys for line in walk(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)]
        return [] if a == b else [f"{prefix}: {a} -> {b}"]

    return walk(to_dict(old), to_dict(new), "")
