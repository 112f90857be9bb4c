"""Points in 3D Slicer's markups (``.mrk.json``)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.common.errors import InputError

_SIGNS = {"LPS": np.array([1, 1, 1]), "RAS": np.array([-1, -1, 1])}
_OF_POINTS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
"""Types of markups that are given by their points alone."""


def parse_markups(path: Path, text: str) -> tuple[np.ndarray, Callable[[np.ndarray], str]]:
    """Read the points of all markups of a file.

    Args:
        path: File, for messages.
        text: Content of the file.

    Returns:
        (N, 3) points, LPS, mm, without those that are not placed yet; and a function of other such
        points that returns the file with these. Stored lengths and angles are left out there, since
        Slicer measures them again.

    Raises:
        InputError: If this is not such a file, or has other markups than lists of points.
    """
    try:
        document = json.loads(text)
        placed = [(point, _signs(markup)) for markup in document["markups"] for point in _placed_points(markup)]
        positions = [np.array(point["position"], dtype=float) for point, _ in placed]
        if not all(position.shape == (3,) and np.isfinite(position).all() for position in positions):
            raise ValueError("a position that is not three finite numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: expected markups of Slicer with points in LPS or RAS, mm, found another content ({reason}); "
            "save it with Slicer as .mrk.json"
        ) from None
    if not placed:
        raise InputError(f"{path} holds no landmarks, expected control points; place some in Slicer")

    points = np.array([position * signs for position, (_, signs) in zip(positions, placed, strict=True)])

    def text_with(points_mm: np.ndarray) -> str:
        changed = copy.deepcopy(document)
        targets = [(point, _signs(markup)) for markup in changed["markups"] for point in _placed_points(markup)]
        for (point, signs), moved in zip(targets, np.asarray(points_mm), strict=True):
            point["position"] = (moved * signs).round(6).tolist()
        for markup in changed["markups"]:
            markup.pop("measurements", None)
        return json.dumps(changed, indent=1, ensure_ascii=False) + "\n"

    return points, text_with


def _placed_points(markup: dict[str, Any]) -> list[dict[str, Any]]:
    if markup.get("type", "Fiducial") not in _OF_POINTS:
        raise ValueError(f"a markup of type {markup['type']}")
    return [
        point
        for point in markup.get("controlPoints") or []
        if point.get("positionStatus", "defined") == "defined" and point.get("position") is not None
    ]


def _signs(markup: dict[str, Any]) -> np.ndarray:
    units = markup.get("coordinateUnits", "mm")
    if units != "mm" and "mm" not in list(units):
        raise ValueError(f"units {units}")
    system = str(markup.get("coordinateSystem", "LPS")).upper()
    if system not in _SIGNS:
        raise ValueError(f"coordinate system {system}")
    return _SIGNS[system]
