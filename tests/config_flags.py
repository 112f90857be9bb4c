"""Flags of a configuration: one for every field, with a value made from its type and value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every field that is no dataclass itself."""
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, type_ = f"{prefix}{field.name}", types[field.name]
        if dataclasses.is_dataclass(type_):
            yield from leaves(type_, f"{name}.")
        else:
            yield name, type_


def value_of(config: Any, name: str) -> Any:
    """What the field of this dotted name holds."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def flags_of(config: Any, prefix: str = "") -> list[str]:
    """The command line that gives every field of a configuration."""
    words: list[str] = []
    for name, _ in leaves(type(config)):
        flag, value = f"{prefix}{name}".replace("_", "-"), value_of(config, name)
        if isinstance(value, bool):
            path, _, last = flag.rpartition(".")
            words.append(f"--{flag}" if value else f"--{path}{'.' if path else ''}no-{last}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """Return the configuration with other values of these fields, given by dotted names.

    InputError if it refuses them.
    """
    data = to_dict(config)
    for name, value in values.items():
        *path, last = name.split(".")
        inner = data
        for part in path:
            inner = inner[part]
        inner[last] = list(value) if isinstance(value, tuple) else value
    return from_dict(type(config), data)


def other_values(type_: Any, value: Any) -> list[Any]:
    """Values of the same type near this one, to be tried in turn."""
    if isinstance(value, bool):
        return [not value]
    if get_origin(type_) is Literal:
        return [other for other in get_args(type_) if other != value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value]
    if isinstance(value, float):
        return [0.9 * value, 1.1 * value, value / 2] if value else [0.25, 1.0]
    if value == () and get_args(type_)[0] is int:
        return [(1,)]
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        # A bound of 0 stays, lest it passes the other bound.
        still = [isinstance(number, float) and number == 0 for number in value]
        one = [
            [number] * 3 if keep else other_values(type(number), number)
            for number, keep in zip(value, still, strict=True)
        ]
        return [tuple(found) for found in zip(*one, strict=False)]
    return []


def changed(config: Any, fixed: set[str]) -> Any:
    """Return the configuration with another allowed value of every field but the fixed ones."""
    for name, type_ in leaves(type(config)):
        if name in fixed:
            continue
        for value in other_values(type_, value_of(config, name)):
            try:
                config = with_values(config, {name: value})
            except InputError:
                continue
            break
    return config
