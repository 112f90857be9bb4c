"""Routes: which series go to which model, read from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from nnunet_anatomix.clinical.intake.series import Series
from pretraining.common.config import from_dict
from pretraining.common.errors import InputError

_LISTS = ("modality", "body_part", "description", "map", "folds")
"""Keys that take one text or a list of texts."""
_EXPECTED = (
    "expected a list of routes, each with name, model and, as needed, modality, body_part, description, map, "
    'originals_only, folds, mirroring; patterns in quotes: description: "*venous*"'
)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One model and the series that it may take.

    Letter case does not matter, ``*`` and ``?`` are wildcards. A series must match one pattern of
    every field that has any; a series without the tag matches none. Several routes may take the
    same series.
    """

    name: str
    """Folder of the results below DST; empty for DST itself."""
    model: str
    """Model; see :func:`~nnunet_anatomix.clinical.running.trained_model.find_trained_model`."""
    modality: tuple[str, ...] = ()
    """Patterns for Modality, such as ``CT``."""
    body_part: tuple[str, ...] = ()
    """Patterns for BodyPartExamined."""
    description: tuple[str, ...] = ()
    """Patterns for SeriesDescription, or for the name of an image file."""
    map: tuple[str, ...] = ()
    """Channel maps, as in ``intake --map``."""
    originals_only: bool = False
    """True to take no CT that is lossy compressed or derived, as ``intake --originals-only``."""
    folds: tuple[str, ...] = ()
    """Folds of the model. Default: all that are trained."""
    mirroring: bool = True
    """False to predict without mirroring, up to eight times faster and less accurate."""

    def select(self, found: Iterable[Series]) -> list[Series]:
        """Return all series; those that the route does not take have that as their problem."""
        return [
            each if each.problem or not (reason := self._mismatch(each)) else replace(each, problem=reason)
            for each in found
        ]

    def _mismatch(self, series: Series) -> str:
        fields = {"modality": series.modality, "body_part": series.body_part, "description": series.description}
        for field, text in fields.items():
            patterns = getattr(self, field)
            matched = bool(text) and any(fnmatchcase(text.lower(), pattern.lower()) for pattern in patterns)
            if patterns and not matched:
                found = "does not match" if text else "is unknown: expected"
                return f"not for route {self.name}: its {field} {found} {' or '.join(patterns)}"
        return ""


def read_routes(path: Path) -> list[Route]:
    """Read the routes of a YAML file.

    Args:
        path: File with a list of routes. Models that are relative paths are relative to its folder.

    Raises:
        InputError: If the file cannot be read, has unknown keys, or two routes have one name.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}); {_EXPECTED}") from None
    if not isinstance(content, list) or not content or not all(isinstance(one, Mapping) for one in content):
        raise InputError(f"{path}: {_EXPECTED}")
    routes = [_parse_route(dict(one), path) for one in content]
    names = [route.name.lower() for route in routes]  # some disks ignore case
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: several routes are called {repeated[0]}; give each route a name of its own")
    return routes


def _parse_route(values: dict[str, Any], path: Path) -> Route:
    for key in set(_LISTS) & values.keys():
        listed = values[key] if isinstance(values[key], list) else [values[key]]
        if not listed or not all(isinstance(one, str | int) and not isinstance(one, bool) for one in listed):
            raise InputError(f"{path}: {key}: expected a text or a list of texts, found {values[key]!r}; {_EXPECTED}")
        values[key] = [str(one) for one in listed]
    for key in {"name", "model"} & values.keys():  # a dataset's ID is a number
        values[key] = str(values[key])
    try:
        route = from_dict(Route, values)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_EXPECTED}") from None
    if not re.fullmatch(r"\w[\w.-]*", route.name):
        raise InputError(
            f"{path}: name: expected letters, digits, '_', '-' and '.', as it names a folder, found '{route.name}'"
        )
    beside = path.parent / route.model
    return replace(route, model=str(beside)) if beside.exists() else route
