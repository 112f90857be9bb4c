"""Stacking of slices: a valid stack is ordered, complete, equally spaced and not sheared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from nnunet_anatomix.clinical.dicom.headers import VOLUME_TAGS, SliceHeader
from nnunet_anatomix.clinical.phrases import pluralize
from pretraining.common.triple import triple
from pretraining.imaging.grids import Grid
from pretraining.imaging.limits import SANE_SPACING_MM
from pretraining.imaging.rejection import Unusable

SAME_POSITION_MM = 1e-2
"""Positions closer than this count as one; scanners round to a hundredth or finer."""
UNEVEN_SHARE = 0.05
"""Largest deviation of a slice from an evenly spaced stack, fraction of the slice spacing."""
SHEAR_PIXELS = 0.5
"""Largest in-plane shift over the whole height, pixels. More is a gantry tilt, which a voxel grid
with right angles cannot represent.
"""
_DIRECTION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-4
_NAMES = {
    "echo_time": "echo time",
    "b_value": "b-value",
    "inversion_time": "inversion time",
    "flip_angle": "flip angle",
    "temporal_position": "temporal position",
    "trigger_time": "trigger time",
    "acquisition": "acquisition number",
    "image_type": "image type",
    "part": "magnitude, phase, real and imaginary part",
}


def stack_slices(slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], Grid]:
    """Order slices along their normal and check that they form a regular volume.

    Args:
        slices: Headers of one series, without duplicates.

    Returns:
        The slices in the order of the voxel index k, and the grid (LPS; the third direction is
            x × y, so that the position along it increases with k).

    Raises:
        Unusable: For missing position tags; slices that differ in size, pixel spacing or
            orientation; several volumes; duplicate or missing slices; mixed spacing; a sheared
            stack.

    Notes:
        A slice missing at either end cannot be detected: the geometry does not show it, and
            instance numbers need not begin at 1.
    """
    for tag in ("position_mm", "orientation", "pixel_spacing_mm"):
        if lacking := sum(getattr(header, tag) is None for header in slices):
            raise Unusable(f"{pluralize(lacking, 'file')} of {len(slices)} without {_TAG_NAMES[tag]}: geometry unknown")
    _require_same("size", slices, lambda header: (header.columns, header.rows))
    _require_same("pixel spacing", slices, lambda header: header.pixel_spacing_mm, _SPACING_TOLERANCE)
    _require_same("orientation", slices, lambda header: header.orientation, _DIRECTION_TOLERANCE)
    first = slices[0]
    along_x, along_y = np.array(first.orientation).reshape(2, 3)
    if (
        abs(np.linalg.norm(along_x) - 1) > _DIRECTION_TOLERANCE
        or abs(np.linalg.norm(along_y) - 1) > _DIRECTION_TOLERANCE
    ):
        raise Unusable("orientation tag does not hold unit vectors")
    if abs(along_x @ along_y) > _DIRECTION_TOLERANCE:
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
    _require_one_volume(ordered, heights)
    if len(ordered) < 2:
        raise Unusable("2D: a single slice")
    spacing_z = _require_even_spacing(heights)
    positions = np.array([header.position_mm for header in ordered])
    _require_no_shear(positions, np.stack([along_x, along_y]), (spacing_x, spacing_y))
    direction = np.stack([along_x, along_y, normal], axis=1)
    return ordered, Grid(
        size=(first.columns, first.rows, len(ordered)),
        spacing_mm=(float(spacing_x), float(spacing_y), spacing_z),
        origin_mm=triple(float(mm) for mm in positions[0]),
        direction=tuple(float(cosine) for cosine in direction.ravel()),
    )


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


def _require_one_volume(ordered: Sequence[SliceHeader], heights: np.ndarray) -> None:
    groups = np.split(np.arange(len(heights)), np.flatnonzero(np.diff(heights) > SAME_POSITION_MM) + 1)
    counts = {len(group) for group in groups}
    differing = [_NAMES[tag] for tag in VOLUME_TAGS if len({getattr(header, tag) for header in ordered}) > 1]
    if counts == {1}:
        # Slices of one acquisition may differ in acquisition number and time, but not in contrast.
        contrasts = [
            _NAMES[tag]
            for tag in ("b_value", "inversion_time")
            if len({getattr(header, tag) for header in ordered}) > 1
        ]
        if len({round(header.echo_time or 0, 1) for header in ordered}) > 1:
            contrasts.append(_NAMES["echo_time"])
        if contrasts:
            raise Unusable(f"slices differ in {', '.join(contrasts)}: several volumes in one series")
        return
    if len(counts) == 1 and differing:
        raise Unusable(f"{counts.pop()} volumes in one series (4D): they differ in {', '.join(differing)}")
    duplicates = sum(len(group) > 1 for group in groups)
    raise Unusable(f"duplicate slices: {pluralize(duplicates, 'position')} of {len(groups)} with more than one slice")


def _require_even_spacing(heights: np.ndarray) -> float:
    """Return the distance of neighbouring slices, mm; raise ``Unusable`` if it varies."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    even = (heights[-1] - heights[0]) / (len(heights) - 1)
    off_place = np.abs(heights - heights[0] - even * np.arange(len(heights)))
    slack = max(UNEVEN_SHARE * even, 2 * SAME_POSITION_MM if even > 10 * SAME_POSITION_MM else 0)
    if off_place.max() <= slack and np.abs(gaps - even).max() <= slack:
        if not SANE_SPACING_MM[0] <= even <= SANE_SPACING_MM[1]:
            raise Unusable(f"slice spacing of {even:g} mm is implausible")
        return float(even)
    steps = np.round(gaps / typical)
    whole = np.abs(gaps - steps * typical) <= np.maximum(UNEVEN_SHARE * typical, 2 * SAME_POSITION_MM)
    if whole.all() and (steps >= 1).all() and np.mean(steps > 1) <= 1 / 3:
        missing = int((steps - 1).sum())
        raise Unusable(
            f"missing slices: {missing} of {len(heights) + missing} "
            f"(gaps of {gaps.max():.4g} mm, spacing {typical:.4g} mm)"
        )
    raise Unusable(f"mixed slice spacing: from {gaps.min():.4g} to {gaps.max():.4g} mm")


def _require_no_shear(positions: np.ndarray, in_plane: np.ndarray, spacing_mm: tuple[float, float]) -> None:
    shifts = (positions - positions[0]) @ in_plane.T
    if (np.abs(shifts) / spacing_mm).max() <= SHEAR_PIXELS:
        return
    even = np.outer(np.arange(len(shifts)), shifts[-1] / (len(shifts) - 1))
    if np.abs(shifts - even).max() <= SHEAR_PIXELS * max(spacing_mm):
        lean = np.linalg.norm(shifts[-1]) / (len(shifts) - 1)
        raise Unusable(f"gantry tilt: each slice is shifted by {lean:.3g} mm in plane (sheared stack)")
    raise Unusable("slices are shifted against each other in plane")
