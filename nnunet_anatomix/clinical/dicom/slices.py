"""Stacking of slices: order, completeness, spacing, tilt, and the grid of the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from nnunet_anatomix.clinical.dicom.spacing import SliceSpacing, find_spacing
from nnunet_anatomix.clinical.dicom.volumes import DIRECTION_TOLERANCE, SAME_POSITION_MM, SPACING_TOLERANCE
from nnunet_anatomix.clinical.phrases import pluralize
from pretraining.common.triple import triple
from pretraining.imaging.grids import Grid
from pretraining.imaging.limits import SANE_SPACING_MM
from pretraining.imaging.rejection import Unusable

SHEAR_PIXELS = 0.5
"""Largest in-plane shift over the whole height, pixels. More is a gantry tilt, which a voxel grid
with right angles cannot represent.
"""
MAX_TILT_DEGREES = 45.0
_ROUNDED_PIXELS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices of a volume in the order along their normal."""

    slices: list[SliceHeader]
    grid: Grid
    """Grid of the image (LPS). Its third direction is x × y, so that the position along it
    increases with k.
    """
    positions_mm: tuple[tuple[float, float, float], ...] = ()
    """Positions of the slices, if they are not the planes of the grid; otherwise empty."""
    note: str = ""
    """Remark on a stack that must be resampled to the grid."""


def stack_slices(slices: Sequence[SliceHeader]) -> Stack:
    """Order slices along their normal and check that they form a volume.

    Args:
        slices: Headers of one volume, without duplicates.

    Returns:
        The slices in order, and their grid. Slices with a gantry tilt or changing distances are
            not the planes of the grid.

    Raises:
        Unusable: For missing position tags; slices that differ in size, pixel spacing or
            orientation; duplicate or missing slices; distances without a pattern; slices shifted
            against each other.

    Notes:
        A slice missing at either end cannot be detected: the geometry does not show it, and
            instance numbers need not begin at 1.
    """
    for tag in ("position_mm", "orientation", "pixel_spacing_mm"):
        if lacking := sum(getattr(header, tag) is None for header in slices):
            raise Unusable(f"{pluralize(lacking, 'file')} of {len(slices)} without {_TAG_NAMES[tag]}: geometry unknown")
    _require_same("size", slices, lambda header: (header.columns, header.rows))
    _require_same("pixel spacing", slices, lambda header: header.pixel_spacing_mm, SPACING_TOLERANCE)
    _require_same("orientation", slices, lambda header: header.orientation, DIRECTION_TOLERANCE)
    first = slices[0]
    along_x, along_y = np.array(first.orientation).reshape(2, 3)
    if abs(np.linalg.norm(along_x) - 1) > DIRECTION_TOLERANCE or abs(np.linalg.norm(along_y) - 1) > DIRECTION_TOLERANCE:
        raise Unusable("orientation tag does not hold unit vectors")
    if abs(along_x @ along_y) > DIRECTION_TOLERANCE:
        raise Unusable("orientation vectors are not at a right angle")
    # ITK requires exact orthonormal vectors; tags are rounded.
    along_x /= np.linalg.norm(along_x)
    along_y -= (along_x @ along_y) * along_x
    along_y /= np.linalg.norm(along_y)
    normal = np.cross(along_x, along_y)
    spacing_y, spacing_x = np.array(first.pixel_spacing_mm).tolist()
    if not all(SANE_SPACING_MM[0] <= mm <= SANE_SPACING_MM[1] for mm in (spacing_x, spacing_y)):
        raise Unusable(f"pixel spacing of {spacing_x:g}×{spacing_y:g} mm is implausible")
    heights = np.array([np.array(header.position_mm) @ normal for header in slices])
    order = np.argsort(heights, kind="stable")
    ordered, heights = [slices[i] for i in order], heights[order]
    _require_no_duplicates(heights)
    if len(ordered) < 2:
        raise Unusable("2D: a single slice")
    thicknesses_mm = np.array([header.thickness_mm or np.nan for header in ordered])
    spacing = find_spacing(heights, thicknesses_mm)
    positions = np.array([header.position_mm for header in ordered])
    shifts = (positions - positions[0]) @ np.stack([along_x, along_y], axis=1)
    tilt = _measure_tilt(shifts, heights, (spacing_x, spacing_y))
    columns, rows, origin = first.columns, first.rows, positions[0]
    if tilt:
        low, high = shifts.min(axis=0), shifts.max(axis=0)
        origin = origin + low @ np.stack([along_x, along_y])
        columns += int(np.ceil((high - low)[0] / spacing_x - _ROUNDED_PIXELS))
        rows += int(np.ceil((high - low)[1] / spacing_y - _ROUNDED_PIXELS))
    direction = np.stack([along_x, along_y, normal], axis=1)
    regular = spacing.is_even and not tilt
    return Stack(
        slices=ordered,
        grid=Grid(
            size=(columns, rows, spacing.planes),
            spacing_mm=(float(spacing_x), float(spacing_y), spacing.spacing_mm),
            origin_mm=triple(float(mm) for mm in origin),
            direction=tuple(float(cosine) for cosine in direction.ravel()),
        ),
        positions_mm=() if regular else tuple(triple(float(mm) for mm in place) for place in positions),
        note="" if regular else _describe_resampling(tilt, spacing, np.diff(heights)),
    )


def _describe_resampling(tilt: float, spacing: SliceSpacing, gaps: np.ndarray) -> str:
    causes = [f"gantry tilt of {tilt:.1f}°"] if tilt else []
    if not spacing.is_even:
        causes.append(f"slice spacing from {gaps.min():.4g} to {gaps.max():.4g} mm")
    return f"{' and '.join(causes)}: resampled to a right-angled, even grid; a SEG is on the original slices"


_TAG_NAMES = {
    "position_mm": "ImagePositionPatient",
    "orientation": "ImageOrientationPatient",
    "pixel_spacing_mm": "PixelSpacing",
}


def _require_same(
    quantity: str, slices: Sequence[SliceHeader], value: Callable[[SliceHeader], tuple | None], tolerance: float = 0.0
) -> None:
    values = np.array([value(header) for header in slices], dtype=float)
    if np.abs(values - values[0]).max() <= tolerance:
        return
    different = Counter(tuple(round(number, 3) for number in row) for row in values.tolist())
    shown = ", ".join("×".join(f"{number:g}" for number in row) for row, _ in different.most_common(3))
    detail = f" ({shown})" if quantity != "orientation" else ""
    raise Unusable(f"slices differ in {quantity}{detail}: possibly two series with one UID")


def _require_no_duplicates(heights: np.ndarray) -> None:
    groups = np.split(heights, np.flatnonzero(np.diff(heights) > SAME_POSITION_MM) + 1)
    if duplicates := sum(len(group) > 1 for group in groups):
        raise Unusable(
            f"duplicate slices: {pluralize(duplicates, 'position')} of {len(groups)} with more than one slice"
        )


def _measure_tilt(shifts: np.ndarray, heights: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    """Return the gantry tilt, degrees; 0 if it is not visible.

    Args:
        shifts: (N, 2) in-plane positions of the slices relative to the first one, mm.
        heights: (N,) positions along the normal, mm.
        spacing_mm: Pixel spacing along x and y.

    Raises:
        Unusable: If the shift does not grow with the height, or exceeds
            :data:`MAX_TILT_DEGREES`.
    """
    if (np.abs(shifts) / spacing_mm).max() <= SHEAR_PIXELS:
        return 0.0
    slope = shifts[-1] / (heights[-1] - heights[0])
    if np.abs(shifts - np.outer(heights - heights[0], slope)).max() > SHEAR_PIXELS * max(spacing_mm):
        raise Unusable("slices are shifted against each other in plane")
    degrees = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if degrees > MAX_TILT_DEGREES:
        raise Unusable(f"slices are shifted by a gantry tilt of {degrees:.0f}°, more than any scanner has")
    return degrees
