"""A picture of a prediction: three planes where most of it is to be seen, outlines and names."""

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
"""Longest side of the axial view; coronal and sagittal together are at most as high."""
_PER_INCH = 130
"""Pixels of a view."""
_FILL = 0.3
"""Of the colour inside an outline."""
_MARGIN = 0.02
"""Of the size of a scan, what is left around its content."""
_LINES = 26
"""Of a column of the legend."""


def overview(
    scan: sitk.Image,
    labels: sitk.Image,
    structures: Structures,
    volumes_ml: Sequence[float],
    *,
    title: str,
    is_ct: bool,
) -> Figure:
    """Draw a prediction over its scan, to scale, as radiologists hang pictures.

    Args:
        scan, labels: On one grid, of any orientation.
        structures: What the labels mean.
        volumes_ml: Of the structures, in their order.
        title: Above the picture.
        is_ct: Whether the scan is in Hounsfield units.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = overview_panels(scan, labels, structures, is_ct=is_ct)
    colours = structure_colours(len(structures.all))
    found = [number for number, volume in enumerate(volumes_ml) if volume > 0]
    columns = max(1, -(-len(found) // _LINES))
    longest = max([len(_short(structures.all[number].name)) for number in found], default=12)
    height = max(panels["axial"].shape[0], panels["coronal"].shape[0] + panels["sagittal"].shape[0])
    beside = max(panels["coronal"].shape[1], panels["sagittal"].shape[1])
    widths = [panels["axial"].shape[1] / _PER_INCH, beside / _PER_INCH, columns * (1.1 + 0.075 * longest)]
    figure = Figure(
        figsize=(sum(widths) + 1, height / _PER_INCH + 1), dpi=_PER_INCH, layout="constrained", facecolor="black"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=13)
    grid = figure.add_gridspec(2, 3, width_ratios=widths)
    places = {"axial": grid[:, 0], "coronal": grid[0, 1], "sagittal": grid[1, 1]}
    for view, panel in panels.items():
        axis = figure.add_subplot(places[view])
        axis.imshow(panel)
        if view != "axial":  # both as wide, so that both are of one scale
            room = (beside - panel.shape[1]) / 2
            axis.set_xlim(-0.5 - room, panel.shape[1] - 0.5 + room)
        axis.set_axis_off()
        letter_sides(axis, view, outside=True, size=10)
        axis.text(0, 1.01, view, color="white", fontsize=10, ha="left", va="bottom", transform=axis.transAxes)
    legend = figure.add_subplot(grid[:, 2])
    legend.set_axis_off()
    handles = [
        Patch(color=colours[number], label=f"{_short(structures.all[number].name)}  {_volume(volumes_ml[number])}")
        for number in found
    ]
    missing = len(structures.all) - len(found)
    if missing:
        handles.append(Patch(color="none", label=f"not found: {_missing(structures, found)}"))
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


def overview_panels(
    scan: sitk.Image, labels: sitk.Image, structures: Structures, *, is_ct: bool
) -> dict[str, np.ndarray]:
    """View → (H, W, 3) in [0, 1], of square pixels; the axial view is as large as the others together.

    Each plane lies where the structures are to be seen at their largest: the sum of their areas,
    each relative to its own greatest one.
    """
    # With Z turned, the first voxel is the patient's right, front and top: where pictures begin.
    oriented = [sitk.DICOMOrient(image, "LPS") for image in (scan, labels)]
    grey, numbers = (sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)[..., ::-1] for image in oriented)
    window = display_window(grey, is_ct=is_ct, structures=grey[numbers > 0])
    box = _content(grey, numbers, window)
    grey, numbers, spacing_mm = grey[box], numbers[box], np.array(oriented[0].GetSpacing())
    at = _best_planes(numbers)
    colours = structure_colours(len(structures.all))
    size_mm = spacing_mm * grey.shape
    per_mm = _SIDE_PX / max(size_mm[:2])
    beside_per_mm = min(per_mm, _SIDE_PX / 2 / size_mm[2])
    panels = {}
    for view, (axes, _) in VIEWS.items():
        plane = tuple(slice(None) if axis in axes else at[axis] for axis in range(3))
        scale = per_mm if view == "axial" else beside_per_mm
        shape = tuple(max(1, round(size_mm[axis] * scale)) for axis in reversed(axes))
        panels[view] = _drawn(grey[plane].T, numbers[plane].T, structures, shape, window, colours)
    return panels


def _content(grey: np.ndarray, numbers: np.ndarray, window: tuple[float, float]) -> tuple[slice, ...]:
    """All that is not black, and all structures."""
    content = (grey > window[0] + CONTENT * (window[1] - window[0])) | (numbers > 0)
    box = []
    for axis, size in enumerate(content.shape):
        where = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        margin = round(_MARGIN * size)
        box.append(slice(max(0, where[0] - margin), where[-1] + 1 + margin) if len(where) else slice(None))
    return tuple(box)


def _best_planes(numbers: np.ndarray) -> list[int]:
    """Along every axis the index of the plane to show; the middle of an empty prediction."""
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


def _drawn(
    grey: np.ndarray,
    numbers: np.ndarray,
    structures: Structures,
    shape: tuple[int, int],
    window: tuple[float, float],
    colours: np.ndarray,
) -> np.ndarray:
    """(H, W, 3) of a plane."""
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
    for mask, colour in masks:  # after all fills: nothing hides an outline
        picture[find_boundaries(mask, mode="inner")] = colour
    return picture


def _volume(volume_ml: float) -> str:
    return f"{volume_ml:.0f} ml" if volume_ml >= 100 else f"{volume_ml:.3g} ml"


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"


def _missing(structures: Structures, found: Sequence[int]) -> str:
    names = [_short(one.name) for number, one in enumerate(structures.all) if number not in set(found)]
    return "\n  ".join(names) if len(names) <= 4 else f"{len(names)} of {len(structures.all)} structures"
