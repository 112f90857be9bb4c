"""Overview picture of a prediction: three planes with fills, outlines and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.delivery.structure_colours import structure_colours
from nnunet_anatomix.clinical.delivery.structures import Structures
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


def render_overview(
    scan: sitk.Image,
    labels: sitk.Image,
    structures: Structures,
    volumes_ml: Sequence[float],
    *,
    title: str,
    is_ct: bool,
) -> Figure:
    """Render a prediction over its scan, to scale, in radiological orientation.

    Args:
        scan: 3D image of any orientation.
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
    scan: sitk.Image, labels: sitk.Image, structures: Structures, *, is_ct: bool
) -> dict[str, np.ndarray]:
    """Render the axial, coronal and sagittal panels of an overview.

    Each panel shows the plane with the largest sum of structure areas, each relative to the largest
    area of that structure along the axis.

    Args:
        scan: 3D image of any orientation.
        labels: Label map on the grid of ``scan``.
        structures: Names and labels of the structures.
        is_ct: True if the scan is in Hounsfield units.

    Returns:
        View → (H, W, 3) sRGB in [0, 1] with square pixels.
    """
    # Flip z: pictures start at the right, anterior and superior side of the patient.
    oriented = [sitk.DICOMOrient(image, "LPS") for image in (scan, labels)]
    grey, numbers = (sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)[..., ::-1] for image in oriented)
    window = display_window(grey, is_ct=is_ct, structures=grey[numbers > 0])
    box = _content_box(grey, numbers, window)
    grey, numbers, spacing_mm = grey[box], numbers[box], np.array(oriented[0].GetSpacing())
    at = _best_planes(numbers)
    colours = structure_colours(len(structures.all))
    size_mm = spacing_mm * grey.shape
    per_mm = _SIDE_PX / max(size_mm[:2])
    side_per_mm = min(per_mm, _SIDE_PX / 2 / size_mm[2])
    panels = {}
    for view, (axes, _) in VIEWS.items():
        plane = tuple(slice(None) if axis in axes else at[axis] for axis in range(3))
        scale = per_mm if view == "axial" else side_per_mm
        shape = tuple(max(1, round(size_mm[axis] * scale)) for axis in reversed(axes))
        panels[view] = _render_plane(grey[plane].T, numbers[plane].T, structures, shape, window, colours)
    return panels


def _content_box(grey: np.ndarray, numbers: np.ndarray, window: tuple[float, float]) -> tuple[slice, ...]:
    """Return the bounding box of all voxels that are not black or belong to a structure."""
    content = (grey > window[0] + CONTENT * (window[1] - window[0])) | (numbers > 0)
    box = []
    for axis, size in enumerate(content.shape):
        where = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(_MARGIN * size)
        box.append(slice(max(0, where[0] - margin), where[-1] + 1 + margin) if len(where) else slice(None))
    return tuple(box)


def _best_planes(numbers: np.ndarray) -> list[int]:
    """Return the index of the plane to show along each axis; the middle if there are no labels."""
    where = np.nonzero(numbers)
    values = numbers[where].astype(np.int64)
    planes = []
    for axis, size in enumerate(numbers.shape):
        if len(values) == 0:
            planes.append(size // 2)
            continue
        areas = np.bincount(values * size + where[axis], minlength=(int(values.max()) + 1) * size).reshape(-1, size)
        planes.append(int((areas / np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0).argmax()))
    return planes


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
