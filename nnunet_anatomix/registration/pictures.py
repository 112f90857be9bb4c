"""Figure of a registration: slices, checkerboards and edges before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.imaging.grids import same_grid
from pretraining.imaging.views import CONTENT, VIEWS, apply_window, display_window, name_row

Plane = TypeVar("Plane", np.ndarray, Tensor)

COLUMNS = (
    "fixed",
    "moving, before",
    "moving, after",
    "checkerboard, before",
    "checkerboard, after",
    "edges of fixed, before",
    "edges of fixed, after",
)
_PIXELS = 320
"""Pixels along the longest side of a view; finer than most scans, so that edges are thin."""
_SMOOTH_VOXELS = 1.0
"""Standard deviation of the Gaussian before edge detection, against noise, voxels."""
_EDGE_QUANTILES = (0.75, 0.88)
"""Hysteresis quantiles of the gradient: edges start above the second, continue above the first."""
_EDGE_COLOUR = (1.0, 0.75, 0.0)


def checkerboard(first: Plane, second: Plane, squares: int = 8) -> Plane:
    """Combine two images into a checkerboard.

    Args:
        first: (H, W) array or tensor, shown in the corner square.
        second: (H, W), the other one.
        squares: Number of squares along the longer side, >= 1.

    Returns:
        (H, W).
    """
    side = -(-max(first.shape) // squares)
    out = first + 0
    for row in range(0, first.shape[0], side):
        for column in range(0, first.shape[1], side):
            if (row + column) // side % 2:
                square = (slice(row, row + side), slice(column, column + side))
                out[square] = second[square]
    return out


def panels(fixed: sitk.Image, before: sitk.Image, after: sitk.Image) -> dict[str, list[np.ndarray]]:
    """Cut views through the middle of the fixed scan, in radiological orientation.

    Pixels are square, and equally large in all views.

    Args:
        fixed: Fixed scan, scalar.
        before: Moving scan on the fixed grid, without registration.
        after: Moving scan on the fixed grid, with registration.

    Returns:
        View → one panel per entry of ``COLUMNS``: (H, W), and (H, W, 3) for edges; in [0, 1].

    Raises:
        InputError: If the scans do not share a grid.
    """
    for role, image in (("before", before), ("after", after)):
        if not same_grid(image, fixed):
            raise InputError(
                f"the moving image {role} registration is not on the fixed grid: "
                f"expected {fixed.GetSize()} voxels from {fixed.GetOrigin()} on, "
                f"found {image.GetSize()} from {image.GetOrigin()} on; resample it to the fixed image first"
            )
    volumes = [upright_volume(image) for image in (fixed, before, after)]
    window, moving_window = display_window(volumes[0]), display_window(*volumes[1:])
    volumes = [apply_window(volumes[0], window), *(apply_window(volume, moving_window) for volume in volumes[1:])]
    middle, pixels = median_voxel(volumes[0]), pixels_per_voxel(fixed)
    views = {}
    for view, (axes, _) in VIEWS.items():
        first, *moving = (cut_slice(volume, middle, axes, pixels) for volume in volumes)
        boards = [checkerboard(first, plane) for plane in moving]
        edges = _find_edges(first, _SMOOTH_VOXELS * min(pixels[list(axes)]))
        views[view] = [first, *moving, *boards, *(_overlay_edges(plane, edges) for plane in moving)]
    return views


def draw_panels(out: Path, views: Mapping[str, list[np.ndarray]], *, title: str = "") -> None:
    """Draw the panels of a registration to scale.

    Args:
        out: PNG file, written atomically.
        views: Panels from :func:`panels`.
        title: Title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    sides, widths = zip(*(row[0].shape for row in views.values()), strict=True)
    heights = [max(height, max(widths) / 8) for height in sides]  # room for the letters next to a single slice
    inches = 2.2 / max(widths)
    size = (len(COLUMNS) * 2.25, sum(heights) * inches + 0.05 * len(views) + 0.25 + 0.3 * bool(title))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=layout, facecolor="black")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color="white", fontsize=12)
    rows = figure.subplots(len(views), len(COLUMNS), gridspec_kw={"height_ratios": heights})
    for row, (view, images) in zip(rows, views.items(), strict=True):
        for axis, panel in zip(row, images, strict=True):
            axis.imshow(panel, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            axis.set_axis_off()
        name_row(row[0], view)
    for axis, name in zip(rows[0], COLUMNS, strict=True):
        axis.set_title(name, color="white", fontsize=10)
    with atomic_write(out) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _find_edges(plane: np.ndarray, smooth: float) -> np.ndarray:
    """Find the edges of a slice; (H, W) bool."""
    from skimage.feature import canny

    low, high = _EDGE_QUANTILES
    return canny(plane, sigma=smooth, low_threshold=low, high_threshold=high, use_quantiles=True, mode="nearest")


def _overlay_edges(plane: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Draw edges over a slice; (H, W, 3)."""
    picture = np.repeat(plane[..., None], 3, axis=-1) * 0.8
    picture[edges] = _EDGE_COLOUR
    return picture


def upright_volume(image: sitk.Image) -> np.ndarray:
    """Return an image from the patient's right, front and top on, as radiologists look at it.

    Args:
        image: Scalar or vector image of any orientation.

    Returns:
        (X, Y, Z) or (X, Y, Z, C) float32; with Z flipped, an LPS volume.
    """
    oriented = sitk.DICOMOrient(image, "LPS")
    return np.swapaxes(sitk.GetArrayViewFromImage(oriented), 0, 2)[:, :, ::-1].astype(np.float32)


def pixels_per_voxel(image: sitk.Image) -> np.ndarray:
    """Return the number of pixels that a voxel of an upright volume takes along X, Y and Z."""
    oriented = sitk.DICOMOrient(image, "LPS")
    spacing_mm = np.array(oriented.GetSpacing())
    return spacing_mm * _PIXELS / (spacing_mm * oriented.GetSize()).max()


def median_voxel(volume: np.ndarray) -> list[int]:
    """Find the median voxel of the content along every axis; without content, the centre."""
    content = volume > CONTENT if (volume > CONTENT).any() else np.ones_like(volume, dtype=bool)
    counts = [content.sum(axis=tuple({0, 1, 2} - {axis})).cumsum() for axis in range(3)]
    return [int(np.searchsorted(count, count[-1] / 2)) for count in counts]


def cut_slice(volume: np.ndarray, voxel: list[int], axes: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """Cut an (H, W) slice of square pixels, with ``pixels`` per voxel along each axis."""
    from skimage.transform import resize

    plane = volume[tuple(slice(None) if axis in axes else voxel[axis] for axis in range(3))].T
    shape = [max(1, round(volume.shape[axis] * pixels[axis])) for axis in reversed(axes)]
    return resize(plane, shape, order=1)
