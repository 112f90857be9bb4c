"""Slices to a stack: in order, complete, equally spaced and upright, or not taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from nnunet_anatomix.clinical.dicom.headers import VOLUME_TAGS, SliceHeader
from nnunet_anatomix.clinical.phrases import Unusable, count_phrase
from pretraining.common.triple import triple
from pretraining.imaging.grids import Grid
from pretraining.imaging.limits import SANE_SPACING_MM

SAME_PLACE_MM = 1e-2
"""Positions closer than this are one; scanners round to a hundredth or finer."""
UNEVEN_SHARE = 0.05
"""Of the slice spacing: how far a slice may lie from its place in an even stack."""
SHEAR_PIXELS = 0.5
"""How far the stack may lean over its whole height. More is a tilted gantry, which no voxel grid
with right angles can hold.
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
}


def stack_slices(slices: Sequence[SliceHeader]) -> tuple[list[SliceHeader], Grid]:
    """Order slices along their normal.

    Args:
        slices: Of one series, each file once.

    Returns:
        The slices in the order of the stack's voxel rows k, and its grid (LPS; the third direction
        is x × y, so that position grows with k).

    Raises:
        Unusable: For missing position tags; slices that differ in size, pixel spacing, orientation
            or bits; several volumes; duplicate or missing slices; mixed spacing; a sheared stack.

    Notes:
        A slice that is missing at either end leaves no trace in the geometry, and instance numbers
            need not begin at 1: that cannot be seen.
    """
    for tag in ("position_mm", "orientation", "pixel_spacing_mm"):
        if lacking := sum(getattr(header, tag) is None for header in slices):
            raise Unusable(
                f"{count_phrase(lacking, 'file')} of {len(slices)} without {_TAG_NAMES[tag]}: geometry unknown"
            )
    _require_one("size", slices, lambda header: (header.columns, header.rows))
    _require_one("pixel spacing", slices, lambda header: header.pixel_spacing_mm, _SPACING_TOLERANCE)
    _require_one("orientation", slices, lambda header: header.orientation, _DIRECTION_TOLERANCE)
    first = slices[0]
    along_x, along_y = np.array(first.orientation).reshape(2, 3)
    if (
        abs(np.linalg.norm(along_x) - 1) > _DIRECTION_TOLERANCE
        or abs(np.linalg.norm(along_y) - 1) > _DIRECTION_TOLERANCE
    ):
        raise Unusable("orientation tag holds no unit vectors")
    if abs(along_x @ along_y) > _DIRECTION_TOLERANCE:
        raise Unusable("orientation tag holds no right angle")
    # Rounded tags are made exact, as ITK wants them.
    along_x /= np.linalg.norm(along_x)
    along_y -= (along_x @ along_y) * along_x
    along_y /= np.linalg.norm(along_y)
    normal = np.cross(along_x, along_y)
    spacing_y, spacing_x = np.array(first.pixel_spacing_mm).tolist()
    if not all(SANE_SPACING_MM[0] <= mm <= SANE_SPACING_MM[1] for mm in (spacing_x, spacing_y)):
        raise Unusable(f"pixel spacing of {spacing_x:g}×{spacing_y:g} mm is not sane")
    heights = np.array([np.array(header.position_mm) @ normal for header in slices])
    order = np.argsort(heights, kind="stable")
    ordered, heights = [slices[i] for i in order], heights[order]
    _require_one_volume(ordered, heights)
    if len(ordered) < 2:
        raise Unusable("a single slice: 2D")
    spacing_z = _even_spacing(heights)
    positions = np.array([header.position_mm for header in ordered])
    _require_upright(positions, np.stack([along_x, along_y]), (spacing_x, spacing_y))
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


def _require_one(
    what: str, slices: Sequence[SliceHeader], value: Callable[[SliceHeader], tuple | None], tolerance: float = 0.0
) -> None:
    values = np.array([value(header) for header in slices], dtype=float)
    if np.abs(values - values[0]).max() <= tolerance:
        return
    different = Counter(tuple(round(number, 3) for number in row) for row in values.tolist())
    shown = ", ".join("×".join(f"{number:g}" for number in row) for row, _ in different.most_common(3))
    detail = f" ({shown})" if what != "orientation" else ""
    raise Unusable(f"slices differ in {what}{detail}: perhaps two series under one UID")


def _require_one_volume(ordered: Sequence[SliceHeader], heights: np.ndarray) -> None:
    groups = np.split(np.arange(len(heights)), np.flatnonzero(np.diff(heights) > SAME_PLACE_MM) + 1)
    counts = {len(group) for group in groups}
    differing = [_NAMES[tag] for tag in VOLUME_TAGS if len({getattr(header, tag) for header in ordered}) > 1]
    if counts == {1}:
        # Steps of one acquisition differ in number and time, never in contrast.
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
    twice = sum(len(group) > 1 for group in groups)
    raise Unusable(
        f"duplicate slices: {count_phrase(twice, 'position')} of {len(groups)} taken by more than one different slice"
    )


def _even_spacing(heights: np.ndarray) -> float:
    """Mm between neighbours, if it is the same everywhere."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    even = (heights[-1] - heights[0]) / (len(heights) - 1)
    off_place = np.abs(heights - heights[0] - even * np.arange(len(heights)))
    slack = max(UNEVEN_SHARE * even, 2 * SAME_PLACE_MM if even > 10 * SAME_PLACE_MM else 0)
    if off_place.max() <= slack and np.abs(gaps - even).max() <= slack:
        if not SANE_SPACING_MM[0] <= even <= SANE_SPACING_MM[1]:
            raise Unusable(f"slice spacing of {even:g} mm is not sane")
        return float(even)
    steps = np.round(gaps / typical)
    whole = np.abs(gaps - steps * typical) <= np.maximum(UNEVEN_SHARE * typical, 2 * SAME_PLACE_MM)
    if whole.all() and (steps >= 1).all() and np.mean(steps > 1) <= 1 / 3:
        missing = int((steps - 1).sum())
        raise Unusable(
            f"missing slices: {missing} of {len(heights) + missing} (gaps of {gaps.max():.4g} mm, spacing {typical:.4g} mm)"
        )
    raise Unusable(f"mixed slice spacing: from {gaps.min():.4g} to {gaps.max():.4g} mm")


def _require_upright(positions: np.ndarray, in_plane: np.ndarray, spacing_mm: tuple[float, float]) -> None:
    shifts = (positions - positions[0]) @ in_plane.T
    if (np.abs(shifts) / spacing_mm).max() <= SHEAR_PIXELS:
        return
    even = np.outer(np.arange(len(shifts)), shifts[-1] / (len(shifts) - 1))
    if np.abs(shifts - even).max() <= SHEAR_PIXELS * max(spacing_mm):
        lean = np.linalg.norm(shifts[-1]) / (len(shifts) - 1)
        raise Unusable(f"gantry tilt: each slice lies {lean:.3g} mm beside the one before (sheared stack)")
    raise Unusable("slices are shifted against each other within their planes")
