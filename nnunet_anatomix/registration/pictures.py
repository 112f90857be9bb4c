"""Pictures of a registration: what a reader looks at to see whether anatomy meets."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.imaging.grids import same_grid
from pretraining.imaging.views import CONTENT, VIEWS, apply_window, display_window, letter_sides

Plane = TypeVar("Plane", np.ndarray, Tensor)

COLUMNS = (
    "fixed",
    "moving, before",
    "moving, after",
    "checkerboard, before",
    "checkerboard, after",
    "edges, before",
    "edges, after",
)
_PIXELS = 320
"""Along the longest side of a view; finer than most scans, so that edges are thin."""
_SMOOTH_VOXELS = 1.0
"""Before edges are sought, so that noise has none."""
_EDGE_QUANTILES = (0.75, 0.88)
"""Of gradients: an edge has one above the second, and goes on above the first."""
_EDGE_COLOUR = (1.0, 0.75, 0.0)


def checkerboard(first: Plane, second: Plane, squares: int = 8) -> Plane:
    """Put two pictures into one, square by square, that of the corner from ``first``.

    Args:
        first, second: (H, W), arrays or tensors.
        squares: Along the longer side, >= 1.

    Returns:
        (H, W).
    """
    side = -(-max(first.shape) // squares)
    out = first + 0
    for row in range(0, first.shape[0], side):
        for column in range(0, first.shape[1], side):
            if (row + column) // side % 2:
                place = (slice(row, row + side), slice(column, column + side))
                out[place] = second[place]
    return out


def panels(fixed: sitk.Image, before: sitk.Image, after: sitk.Image) -> dict[str, list[np.ndarray]]:
    """Views through the middle of the fixed scan, in radiological orientation, of square pixels as large in one as in the other.

    Args:
        fixed, before, after: The fixed scan, and the moving scan without and with registration;
            scalar, on the fixed grid.

    Returns:
        View → what ``COLUMNS`` names: (H, W), and (H, W, 3) for edges; in [0, 1].

    Raises:
        InputError: If they don't share a grid.
    """
    for role, image in (("before", before), ("after", after)):
        if not same_grid(image, fixed):
            found = f"{image.GetSize()} voxels from {image.GetOrigin()} on for {fixed.GetSize()} from {fixed.GetOrigin()} on"
            raise InputError(
                f"the moving image {role} registration is not on the fixed grid ({found}); resample it to the fixed image first"
            )
    # With Z turned, the first voxel is the patient's right, front and top: where pictures begin.
    oriented = [sitk.DICOMOrient(image, "LPS") for image in (fixed, before, after)]
    volumes = [sitk.GetArrayFromImage(image).transpose(2, 1, 0)[..., ::-1].astype(np.float32) for image in oriented]
    window, moving_window = display_window(volumes[0]), display_window(*volumes[1:])
    volumes = [apply_window(volumes[0], window), *(apply_window(volume, moving_window) for volume in volumes[1:])]
    middle, spacing_mm = _middle(volumes[0]), np.array(oriented[0].GetSpacing())
    pixels = spacing_mm * _PIXELS / (spacing_mm * volumes[0].shape).max()  # of a voxel's sides
    views = {}
    for view, (axes, _) in VIEWS.items():
        first, *moving = (_slice(volume, middle, axes, pixels) for volume in volumes)
        boards = [checkerboard(first, one) for one in moving]
        smooth = _SMOOTH_VOXELS * min(pixels[list(axes)])
        views[view] = [first, *moving, *boards, *(_with_edges(first, one, smooth) for one in moving)]
    return views


def draw_registration(out: Path, fixed: sitk.Image, before: sitk.Image, after: sitk.Image, *, title: str = "") -> None:
    """Draw what :func:`panels` shows, to scale.

    Args:
        out: The ``.png`` file, written whole or not at all.
        fixed, before, after: As there.
        title: Above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    views = panels(fixed, before, after)
    sides, widths = zip(*(row[0].shape for row in views.values()), strict=True)
    heights = [max(height, max(widths) / 8) for height in sides]  # room for the letters beside a single slice
    inches = 2.2 / max(widths)
    size = (len(COLUMNS) * 2.25, sum(heights) * inches + 0.05 * len(views) + 0.25 + 0.3 * bool(title))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=layout, facecolor="black")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=12)
    rows = figure.subplots(len(views), len(COLUMNS), gridspec_kw={"height_ratios": heights})
    for row, (view, shown) in zip(rows, views.items(), strict=True):
        for axis, panel in zip(row, shown, strict=True):
            axis.imshow(panel, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            axis.set_axis_off()
        letter_sides(row[0], view)
        row[0].text(
            -0.02,
            0.5,
            view,
            color="white",
            fontsize=10,
            rotation=90,
            ha="right",
            va="center",
            transform=row[0].transAxes,
        )
    for axis, name in zip(rows[0], COLUMNS, strict=True):
        axis.set_title(name, color="white", fontsize=10)
    with atomic_write(out) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _with_edges(under: np.ndarray, of: np.ndarray, smooth: float) -> np.ndarray:
    """Draw the edges of one slice over another; (H, W, 3)."""
    from skimage.feature import canny

    picture = np.repeat(under[..., None], 3, axis=-1) * 0.8
    low, high = _EDGE_QUANTILES
    picture[canny(of, sigma=smooth, low_threshold=low, high_threshold=high, use_quantiles=True, mode="nearest")] = (
        _EDGE_COLOUR
    )
    return picture


def _middle(volume: np.ndarray) -> list[int]:
    """Along every axis the voxel on either side of which half of the content lies; of a volume without content, the centre."""
    content = volume > CONTENT if (volume > CONTENT).any() else np.ones_like(volume, dtype=bool)
    counts = [content.sum(axis=tuple({0, 1, 2} - {axis})).cumsum() for axis in range(3)]
    return [int(np.searchsorted(count, count[-1] / 2)) for count in counts]


def _slice(volume: np.ndarray, at: list[int], axes: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """(H, W) of square pixels, of which ``pixels`` go into a voxel along every axis."""
    from skimage.transform import resize

    plane = volume[tuple(slice(None) if axis in axes else at[axis] for axis in range(3))].T
    shape = [max(1, round(volume.shape[axis] * pixels[axis])) for axis in reversed(axes)]
    return resize(plane, shape, order=1)
