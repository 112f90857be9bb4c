"""Overview picture of a prediction: three planes with fills, outlines and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.delivery.scan_planes import ScanPlanes, planes_of
from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import Structures
from pretraining.imaging.grids import Grid
from pretraining.imaging.views import CONTENT, VIEWS, apply_window, display_window, letter_sides

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE_PX = 800
"""Longest side of the axial view, and greatest height of the other two together, pixels."""
_PER_INCH = 130
"""Resolution of the picture, pixels per inch."""
_FILL = 0.3
"""Opacity of the colour inside an outline."""
_MARGIN = 0.02
"""Margin around the content, fraction of the size of the scan."""
_LINES = 26
"""Number of lines per column of the legend."""
_SAMPLE = 2**20
"""Number of voxels of structures from which the window is chosen."""


def render_overview(
    scan: ScanPlanes | sitk.Image,
    labels: sitk.Image,
    structures: Structures,
    volumes_ml: Sequence[float],
    *,
    title: str,
    is_ct: bool,
) -> Figure:
    """Render a prediction over its scan, to scale, in radiological orientation.

    Args:
        scan: 3D image of any orientation. It is read plane by plane, three times.
        labels: Label map on the grid of ``scan``.
        structures: Names and labels of the structures.
        volumes_ml: Volumes of the structures, ml, in their order.
        title: Title of the picture.
        is_ct: True if the scan is in Hounsfield units.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = render_panels(scan, labels, structures, is_ct=is_ct)
    colours = structure_colours(len(structures.all))
    found = [number for number, volume in enumerate(volumes_ml) if volume > 0]
    columns = max(1, -(-len(found) // _LINES))
    longest = max([len(_shorten(structures.all[number].name)) for number in found], default=12)
    height = max(panels["axial"].shape[0], panels["coronal"].shape[0] + panels["sagittal"].shape[0])
    side_width = max(panels["coronal"].shape[1], panels["sagittal"].shape[1])
    widths = [panels["axial"].shape[1] / _PER_INCH, side_width / _PER_INCH, columns * (1.1 + 0.075 * longest)]
    figure = Figure(
        figsize=(sum(widths) + 1, height / _PER_INCH + 1), dpi=_PER_INCH, layout="constrained", facecolor="black"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=13)
    grid = figure.add_gridspec(2, 3, width_ratios=widths)
    cells = {"axial": grid[:, 0], "coronal": grid[0, 1], "sagittal": grid[1, 1]}
    for view, panel in panels.items():
        axis = figure.add_subplot(cells[view])
        axis.imshow(panel)
        if view != "axial":  # equal widths give both views the same scale
            padding = (side_width - panel.shape[1]) / 2
            axis.set_xlim(-0.5 - padding, panel.shape[1] - 0.5 + padding)
        axis.set_axis_off()
        letter_sides(axis, view, outside=True, size=10)
        axis.text(0, 1.01, view, color="white", fontsize=10, ha="left", va="bottom", transform=axis.transAxes)
    legend = figure.add_subplot(grid[:, 2])
    legend.set_axis_off()
    handles = [
        Patch(
            color=colours[number],
            label=f"{_shorten(structures.all[number].name)}  {_format_volume(volumes_ml[number])}",
        )
        for number in found
    ]
    missing = len(structures.all) - len(found)
    if missing:
        handles.append(Patch(color="none", label=f"not found: {_format_missing(structures, found)}"))
    legend.legend(
        handles=handles,
        loc="center left",
        frameon=False,
        labelcolor="white",
        ncols=columns,
        fontsize=9,
        borderaxespad=0,
    )
    return figure


def render_panels(
    scan: ScanPlanes | sitk.Image, labels: sitk.Image, structures: Structures, *, is_ct: bool
) -> dict[str, np.ndarray]:
    """Render the axial, coronal and sagittal panels of an overview.

    Each panel shows the plane with the largest sum of structure areas, each relative to the largest
    area of that structure along the axis.

    Args:
        scan: 3D image of any orientation. It is read plane by plane, three times.
        labels: Label map on the grid of ``scan``.
        structures: Names and labels of the structures.
        is_ct: True if the scan is in Hounsfield units.

    Returns:
        View → (H, W, 3) sRGB in [0, 1] with square pixels.
    """
    planes, numbers = _as_planes(scan), sitk.GetArrayViewFromImage(labels)
    to_view, spacing_mm = _view_axes(planes.grid)
    areas = _count_areas(numbers)
    window = _choose_window(planes, numbers, areas, is_ct)
    box = _content_box(planes, numbers, window)
    at = [_best_plane(area[:, part], part) for area, part in zip(areas, box, strict=True)]
    grey = _take_planes(planes, at)
    colours = structure_colours(len(structures.all))
    sizes = [box[axis].stop - box[axis].start for axis, _ in to_view]
    size_mm = spacing_mm * sizes
    per_mm = _SIDE_PX / max(size_mm[:2])
    side_per_mm = min(per_mm, _SIDE_PX / 2 / size_mm[2])
    panels = {}
    for view, (axes, _) in VIEWS.items():
        (across,) = {0, 1, 2} - set(axes)
        normal = to_view[across][0]
        scale = per_mm if view == "axial" else side_per_mm
        height, width = (max(1, round(size_mm[axis] * scale)) for axis in reversed(axes))
        sides = [to_view[axis] for axis in axes]
        shown = _turn_plane(grey[normal], normal, sides, box)
        labelled = _turn_plane(numbers.take(at[normal], axis=normal), normal, sides, box)
        panels[view] = _render_plane(shown, labelled, structures, (height, width), window, colours)
    return panels


def _as_planes(scan: ScanPlanes | sitk.Image) -> ScanPlanes:
    return planes_of(scan) if isinstance(scan, sitk.Image) else scan


def _view_axes(grid: Grid) -> tuple[list[tuple[int, bool]], np.ndarray]:
    """Return which axes of an image's array the axes of the pictures are.

    Args:
        grid: Grid of any orientation.

    Returns:
        Array axis, and whether it is flipped, of each axis of the pictures, which run from the
            patient's right, front and top; and the spacing along them, mm.
    """
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)
    axes, spacing_mm = [], []
    for letters, first in (("RL", "L"), ("AP", "P"), ("SI", "I")):  # ends of the axis, and the last one
        index = next(number for number, letter in enumerate(code) if letter in letters)
        axes.append((2 - index, code[index] != first))
        spacing_mm.append(grid.spacing_mm[index])
    return axes, np.array(spacing_mm)


def _turn_plane(plane: np.ndarray, normal: int, axes: Sequence[tuple[int, bool]], box: Sequence[slice]) -> np.ndarray:
    """Crop and turn one plane of an array: (downward, to the right) of the picture.

    Args:
        plane: Values of the plane.
        normal: Array axis across the plane.
        axes: Array axis to the right, then downward; and whether each is flipped.
        box: Part of each array axis to show.
    """
    inside = [axis for axis in range(3) if axis != normal]
    turned = plane[tuple(box[axis] for axis in inside)].transpose([inside.index(axis) for axis, _ in axes])
    return turned[tuple(slice(None, None, -1 if flipped else 1) for _, flipped in axes)].T


def _take_planes(scan: ScanPlanes, at: Sequence[int]) -> list[np.ndarray]:
    """Return one plane across each array axis: (Y, X), (Z, X) and (Z, Y)."""
    found = np.empty(0)
    rows, columns = [], []
    for z, plane in enumerate(scan.read()):
        if z == at[0]:
            found = plane.copy()
        rows.append(plane[at[1]].copy())
        columns.append(plane[:, at[2]].copy())
    return [found, np.stack(rows), np.stack(columns)]


def _count_areas(numbers: np.ndarray) -> list[np.ndarray]:
    """Count the voxels of each label in each plane.

    Args:
        numbers: (Z, Y, X) labels. They are read plane by plane: a copy as int64 would take eight
            times the memory of the label map.

    Returns:
        Per array axis, (labels, planes) number of voxels.
    """
    greatest = int(numbers.max(initial=0))
    areas = [np.zeros((greatest + 1, side), np.int64) for side in numbers.shape]
    for z, plane in enumerate(numbers):
        where = np.nonzero(plane)
        values = plane[where].astype(np.int64)
        areas[0][:, z] = np.bincount(values, minlength=greatest + 1)
        for axis, side in enumerate(plane.shape):
            counts = np.bincount(values * side + where[axis], minlength=(greatest + 1) * side)
            areas[axis + 1] += counts.reshape(-1, side)
    return areas


def _choose_window(
    scan: ScanPlanes, numbers: np.ndarray, areas: Sequence[np.ndarray], is_ct: bool
) -> tuple[float, float]:
    """Choose the window from evenly chosen voxels of the scan and of its structures."""
    step, structure_step = 1 + numbers.size // _SAMPLE, 1 + int(areas[0].sum()) // _SAMPLE
    everywhere, inside, first = [], [], 0
    for plane, labels in zip(scan.read(), numbers, strict=True):
        everywhere.append(plane.ravel()[first::step].copy())
        first = (first - plane.size) % step
        inside.append(plane[labels > 0][::structure_step].copy())
    return display_window(np.concatenate(everywhere), is_ct=is_ct, structures=np.concatenate(inside))


def _content_box(scan: ScanPlanes, numbers: np.ndarray, window: tuple[float, float]) -> tuple[slice, slice, slice]:
    """Return the bounding box of all voxels that are not black or belong to a structure."""
    darkest = window[0] + CONTENT * (window[1] - window[0])
    lines = [np.zeros(side, bool) for side in numbers.shape]
    for z, (plane, labels) in enumerate(zip(scan.read(), numbers, strict=True)):
        content = (plane > darkest) | (labels > 0)
        lines[1] |= content.any(axis=1)
        lines[2] |= content.any(axis=0)
        lines[0][z] = content.any()
    box = []
    for line in lines:
        where, margin = np.flatnonzero(line), round(_MARGIN * len(line))
        first, last = (int(where[0]), int(where[-1])) if len(where) else (0, len(line) - 1)
        box.append(slice(max(0, first - margin), min(len(line), last + 1 + margin)))
    return box[0], box[1], box[2]


def _best_plane(areas: np.ndarray, part: slice) -> int:
    """Return the index of the plane with the most structures along an axis, else of the middle.

    Args:
        areas: (labels, planes) number of voxels in the planes of ``part``.
        part: Planes to choose from.
    """
    if not areas.any():
        return part.start + areas.shape[1] // 2
    return part.start + int((areas / np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0).argmax())


def _render_plane(
    grey: np.ndarray,
    numbers: np.ndarray,
    structures: Structures,
    shape: tuple[int, int],
    window: tuple[float, float],
    colours: np.ndarray,
) -> np.ndarray:
    """Render one plane as (H, W, 3)."""
    from skimage.segmentation import find_boundaries
    from skimage.transform import resize

    picture = np.repeat(resize(apply_window(grey.astype(np.float32), window), shape, order=1)[..., None], 3, axis=-1)
    rows = (np.arange(shape[0]) * numbers.shape[0] // shape[0])[:, None]
    large = numbers[rows, np.arange(shape[1]) * numbers.shape[1] // shape[1]]
    present = set(np.unique(large).tolist())
    masks = [
        (structures.mask(large, one), colour)
        for one, colour in zip(structures.all, colours, strict=True)
        if present.intersection(one.labels)
    ]
    for mask, colour in masks:
        picture[mask] = (1 - _FILL) * picture[mask] + _FILL * colour
    for mask, colour in masks:  # after all fills, which would cover outlines
        picture[find_boundaries(mask, mode="inner")] = colour
    return picture


def _format_volume(volume_ml: float) -> str:
    return f"{volume_ml:.0f} ml" if volume_ml >= 100 else f"{volume_ml:.3g} ml"


def _shorten(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"


def _format_missing(structures: Structures, found: Sequence[int]) -> str:
    names = [_shorten(one.name) for number, one in enumerate(structures.all) if number not in set(found)]
    return "\n  ".join(names) if len(names) <= 4 else f"{len(names)} of {len(structures.all)} structures"
