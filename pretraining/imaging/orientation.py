"""Comparison of NIfTI's two placements, sform and qform, with the one that the reader used."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pretraining.imaging.volume_header import VolumeHeader

_TOLERANCE = 0.1
"""Largest corner distance of equal placements, in units of the smallest spacing."""


def ras_affine(direction: Sequence[float], spacing_mm: Sequence[float], origin_mm: Sequence[float]) -> np.ndarray:
    """Convert ITK's geometry in LPS to NIfTI's (4, 4) affine from voxels to RAS mm.

    Args:
        direction: 9 direction cosines, row-major.
        spacing_mm: Spacing of the 3 axes.
        origin_mm: Position of the first voxel.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing_mm)
    affine[:3, 3] = origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def orientation_note(header: VolumeHeader, used: np.ndarray) -> str:
    """Describe how the placements in a header differ, and which of them the reader used.

    Args:
        header: Header of the file.
        used: (4, 4) from voxels to RAS mm, as returned by the reader.

    Returns:
        One line that begins with "its"; empty if all placements agree.
    """
    transforms = header.transforms
    tolerance_mm = _TOLERANCE * min(header.spacing_mm)
    distances = {name: _corner_distance_mm(header, transform, used) for name, transform in transforms.items()}
    if len(transforms) == 2:
        between = _corner_distance_mm(header, *transforms.values())
        if between <= tolerance_mm:
            return ""
        name = min(distances, key=distances.__getitem__)
        if distances[name] <= tolerance_mm:
            other = next(key for key in transforms if key != name)
            reason = f" (the {other} is sheared)" if _is_sheared(transforms[other]) else ""
            return f"its sform and qform disagree, by up to {between:.3g} mm{reason}; the {name} is used"
    for name, distance in distances.items():
        if distance > tolerance_mm:
            steps = "×".join(f"{mm:.3g}" for mm in np.linalg.norm(transforms[name][:3, :3], axis=0))
            sizes = "×".join(f"{mm:.3g}" for mm in header.spacing_mm)
            return (
                f"its {name} and its voxel sizes disagree, by up to {distance:.3g} mm "
                f"(steps of {steps} mm, voxels of {sizes} mm); the voxel sizes are used"
            )
    return ""


def is_sheared_alone(header: VolumeHeader) -> bool:
    """Tell whether all placements in a header are sheared, which ITK's grids cannot represent.

    Args:
        header: Header of the file.

    Returns:
        True if there are placements and none has axes at right angles.
    """
    return bool(header.transforms) and all(map(_is_sheared, header.transforms.values()))


def _is_sheared(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), np.finfo(float).tiny)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)


def _corner_distance_mm(header: VolumeHeader, first: np.ndarray, second: np.ndarray) -> float:
    sides = (*header.size, 1, 1)[:3]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, side - 1) for side in sides))]).T
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())
