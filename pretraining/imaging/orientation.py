"""NIfTI says twice where a scan lies, by its sform and its qform; where they disagree, say which one was taken."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pretraining.imaging.headers import VolumeHeader

_SAME = 0.1
"""Of the smallest voxel: corners of two placements that lie closer are one."""


def ras_affine(direction: Sequence[float], spacing_mm: Sequence[float], origin_mm: Sequence[float]) -> np.ndarray:
    """Turn a grid of ITK's, whose coordinates are LPS, into NIfTI's (4, 4), voxels to RAS mm.

    Args:
        direction: 9 cosines, row by row.
        spacing_mm: Of 3 axes.
        origin_mm: Of the first voxel.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing_mm)
    affine[:3, 3] = origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def orientation_note(header: VolumeHeader, taken: np.ndarray) -> str:
    """Say how the placements in a header differ, and which of them was taken.

    Args:
        header: Of the file.
        taken: (4, 4), voxels to RAS mm, as the reader understood it.

    Returns:
        One line that begins with "its"; nothing where all placements agree.
    """
    places = header.transforms
    same_mm = _SAME * min(header.spacing_mm)
    apart = {name: _corner_distance_mm(header, place, taken) for name, place in places.items()}
    if len(places) == 2:
        between = _corner_distance_mm(header, *places.values())
        if between <= same_mm:
            return ""
        name = min(apart, key=apart.__getitem__)
        if apart[name] <= same_mm:
            other = next(one for one in places if one != name)
            why = f" (the {other} is sheared)" if _is_sheared(places[other]) else ""
            return f"its sform and qform disagree, by up to {between:.3g} mm{why}; the {name} is taken"
    for name, distance in apart.items():
        if distance > same_mm:
            steps = "×".join(f"{mm:.3g}" for mm in np.linalg.norm(places[name][:3, :3], axis=0))
            sizes = "×".join(f"{mm:.3g}" for mm in header.spacing_mm)
            return (
                f"its {name} and its voxel sizes disagree, by up to {distance:.3g} mm (steps of {steps} mm, voxels of {sizes} mm); "
                "the voxel sizes are taken"
            )
    return ""


def is_sheared_alone(header: VolumeHeader) -> bool:
    """Whether all placements that a header states have axes that are not at right angles: no voxel grid of ITK's can hold them."""
    return bool(header.transforms) and all(map(_is_sheared, header.transforms.values()))


def _is_sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), np.finfo(float).tiny)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)


def _corner_distance_mm(header: VolumeHeader, one: np.ndarray, other: np.ndarray) -> float:
    sides = (*header.size, 1, 1)[:3]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side - 1) for side in sides))]).T
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())
