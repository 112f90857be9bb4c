"""How well two scans lie on each other, and whether what brought them there is a plausible deformation."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from nnunet_anatomix.registration.warp import composed, identity, jacobian_determinant
from pretraining.errors import InputError

LabelMap = np.ndarray | Tensor
"""(X, Y, Z) whole numbers of any type; 0 is background."""
_SLAB = 16
"""Planes along X whose Jacobians are in memory at once."""
_SURFACE_PERCENTILE = 95


def shared_labels(fixed: LabelMap, moving: LabelMap) -> list[int]:
    """Labels above 0 that both maps have, ascending; the maps need not share a grid."""
    return sorted(_labels(_whole(fixed)) & _labels(_whole(moving)))


def dice_by_label(fixed: LabelMap, moved: LabelMap) -> dict[int, float]:
    """Overlap 2 |A ∩ B| / (|A| + |B|) of every label above 0 in either map; 0 for a label that only one of them has.

    Parameters
    ----------
    fixed, moved : (X, Y, Z), one grid.

    Returns
    -------
    Label → Dice in [0, 1], labels ascending.
    """
    fixed, moved = _on_one_grid(fixed, moved)
    greatest = max(int(fixed.max()), int(moved.max()))
    either = _counts(fixed, greatest) + _counts(moved, greatest)
    both = _counts(fixed[fixed == moved], greatest)
    return {int(label): float(2 * both[label] / either[label]) for label in np.flatnonzero(either) if label > 0}


def hd95_mm_by_label(fixed: LabelMap, moved: LabelMap, spacing_mm: Sequence[float]) -> dict[int, float]:
    """Distance within which 95 % of either surface lies of the other: the greater of the two directed percentiles.

    Parameters
    ----------
    fixed, moved : (X, Y, Z), one grid.
    spacing_mm : of the grid, along X, Y and Z.

    Returns
    -------
    Label → mm, labels ascending; NaN for a label that only one of the maps has.

    Notes
    -----
    A surface is a structure less its erosion by the six neighbours, and what lies beyond the grid is background, as in MONAI.
    """
    fixed, moved = _on_one_grid(fixed, moved)
    boxes = [{label: box for label, box in enumerate(ndimage.find_objects(labels), 1) if box} for labels in (fixed, moved)]
    distances = dict.fromkeys(sorted(boxes[0].keys() | boxes[1].keys()), float("nan"))
    for label in boxes[0].keys() & boxes[1].keys():
        # Both surfaces lie in the box around both structures, so that distances in there are those of the whole grid.
        pairs = zip(boxes[0][label], boxes[1][label], strict=True)
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        distances[label] = _hd95_mm(fixed[box] == label, moved[box] == label, spacing_mm)
    return distances


def _hd95_mm(first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float]) -> float:
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    to_surface = [ndimage.distance_transform_edt(~surface, sampling=tuple(spacing_mm)) for surface in surfaces]
    directed = (to_surface[1][surfaces[0]], to_surface[0][surfaces[1]])
    return float(max(np.percentile(distances, _SURFACE_PERCENTILE) for distances in directed))


def tre_mm(fixed_points_mm: np.ndarray, moving_points_mm: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Target registration error: distance from a fixed landmark, transformed, to the moving landmark of the same number.

    Parameters
    ----------
    fixed_points_mm, moving_points_mm : (N, 3), ITK's physical points (LPS).
    transform : takes points of the fixed scan to the moving scan, as ITK's resampler has it.

    Returns
    -------
    (N,), mm.

    Raises
    ------
    InputError
        If there are not as many fixed as moving landmarks.
    """
    if fixed_points_mm.shape != moving_points_mm.shape:
        found = f"{len(fixed_points_mm)} in the fixed and {len(moving_points_mm)} in the moving scan"
        raise InputError(f"landmarks come in pairs, found {found}; list the same points in the same order for both")
    reached = [transform.TransformPoint([float(x) for x in point]) for point in fixed_points_mm]
    return np.linalg.norm(np.reshape(reached, (-1, 3)) - moving_points_mm, axis=1)


def folded_share(displacement: Tensor, mask: Tensor | None = None) -> float:
    """Share of voxels where space folds: a Jacobian determinant below 0.

    Parameters
    ----------
    displacement : (3, X, Y, Z), voxels.
    mask : (X, Y, Z) bool, the voxels that count; None for all.

    Returns
    -------
    In [0, 1]; NaN for an empty mask.
    """
    folded = counted = 0
    for start, determinant in _determinants(displacement):
        inside = torch.ones_like(determinant, dtype=torch.bool) if mask is None else mask[start : start + len(determinant)].bool()
        folded += int((determinant[inside] < 0).sum())
        counted += int(inside.sum())
    return folded / counted if counted else float("nan")


def _determinants(displacement: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Jacobian determinants slab by slab along X, and where each begins; one plane more on either side makes them those of the whole."""
    side = displacement.shape[1]
    for start in range(0, side, _SLAB):
        stop, first = min(start + _SLAB, side), max(start - 1, 0)
        yield start, jacobian_determinant(displacement[:, first : stop + 1])[start - first : stop - first]


def inverse_error_mm(forward: Tensor, inverse: Tensor, spacing_mm: Sequence[float], mask: Tensor | None = None) -> tuple[float, float]:
    """How far from where it began a voxel ends that goes forth and back: |forward(p) + inverse(p + forward(p))|.

    Parameters
    ----------
    forward, inverse : (3, X, Y, Z), voxels, one grid.
    spacing_mm : of the grid, along X, Y and Z.
    mask : (X, Y, Z) bool, the voxels that count; None for all. Those that ``forward`` takes off the grid never count.

    Returns
    -------
    Mean and 95th percentile, mm; NaN where no voxel counts.
    """
    spacing = torch.tensor(spacing_mm, dtype=forward.dtype, device=forward.device)
    error = torch.linalg.vector_norm(composed(forward, inverse) * spacing.view(3, 1, 1, 1), dim=0)
    reached = identity(forward.shape[1:], forward.device) + forward
    last = torch.tensor(forward.shape[1:], device=forward.device).view(3, 1, 1, 1) - 1
    counts = ((reached >= 0) & (reached <= last)).all(dim=0)
    if mask is not None:
        counts &= mask.bool()
    errors = error[counts].cpu().numpy()
    return (float(errors.mean()), float(np.percentile(errors, 95))) if len(errors) else (float("nan"), float("nan"))


def read_landmarks(path: Path) -> np.ndarray:
    """Read points of a scan.

    Parameters
    ----------
    path : a CSV file whose header names x, y and z (among others), in ITK's physical space (LPS, mm); or Slicer's ``.fcsv``, whose
        header says whether it is LPS or RAS.

    Returns
    -------
    (N, 3), LPS, mm.

    Raises
    ------
    InputError
        If the file can't be read, or is none of these; it names the line.
    """
    try:
        lines = [(number, line) for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as text: {error}; name a CSV or .fcsv file of landmarks") from None
    if path.suffix.lower() == ".fcsv":
        lines, columns, signs = _slicers(path, lines)
    else:
        number, header = lines[0] if lines else (1, "")
        lines, columns, signs = lines[1:], _columns(path, number, header), (1, 1, 1)
    if not lines:
        raise InputError(f"{path} holds no landmarks, expected a line of numbers for each")
    return np.array([_point(path, number, line, columns) for number, line in lines]) * signs


def _slicers(path: Path, lines: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[int], tuple[int, int, int]]:
    """Of Slicer's file the lines with points, the columns of x, y and z, and their signs in LPS."""
    said = {"columns": (0, "id,x,y,z"), "coordinatesystem": (0, "")}
    for number, line in lines:
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            said[key.strip().lower()] = (number, value)
    number, system = said["coordinatesystem"]
    signs = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}.get(system.strip().upper())
    if signs is None:
        where = f"{path}, line {number}:" if number else f"{path} has no line"
        raise InputError(f"{where} '# CoordinateSystem = {system.strip()}', expected one with LPS, RAS, 1 or 0; save it again with Slicer")
    return [(number, line) for number, line in lines if not line.startswith("#")], _columns(path, *said["columns"]), signs


def _columns(path: Path, number: int, header: str) -> list[int]:
    names = [name.strip().lower() for name in next(csv.reader([header]), [])]
    try:
        return [names.index(name) for name in "xyz"]
    except ValueError:
        raise InputError(f"{path}, line {number}: expected a header that names the columns x,y,z, found {header.strip()[:60]!r}") from None


def _point(path: Path, number: int, line: str, columns: list[int]) -> list[float]:
    values = next(csv.reader([line]))
    try:
        point = [float(values[column]) for column in columns]
    except (ValueError, IndexError):
        point = [float("nan")]
    if not np.isfinite(point).all():
        wanted = ", ".join(str(column + 1) for column in columns)
        raise InputError(f"{path}, line {number}: expected numbers in columns {wanted} (x, y, z in mm), found {line.strip()[:60]!r}")
    return point


def _on_one_grid(fixed: LabelMap, moved: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    if fixed.shape != moved.shape:
        raise InputError(f"two label maps on one grid expected, found {(*fixed.shape,)} and {(*moved.shape,)} voxels; resample one of them")
    return _whole(fixed), _whole(moved)


def _whole(labels: LabelMap) -> np.ndarray:
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    return labels if labels.dtype == np.int32 else np.rint(labels).astype(np.int32)


def _labels(labels: np.ndarray) -> set[int]:
    return {int(label) for label in np.flatnonzero(_counts(labels)) if label > 0}


def _counts(labels: np.ndarray, greatest: int = 0) -> np.ndarray:
    """Voxels of every label, up to the greatest at least; what is below 0 counts as background."""
    return np.bincount(labels.clip(min=0).ravel(), minlength=1 + max(0, greatest))
