"""Figures of the demo: scans with labels in slices that show every organ, and a registration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretraining.imaging.views import apply_window, display_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORONAL = 1
"""Axis across coronal slices of (Z, Y, X)."""
COLOURS = ("#4e79a7", "#e15759", "#b07aa1", "#f28e2b", "#76b7b2", "#59a14f", "#edc948")
"""Colour of each organ, in the order of the labels."""
_ALPHA = 0.55
"""Opacity of labels over a scan."""


def slices_with_every_label(labels: np.ndarray, axis: int = CORONAL) -> list[int]:
    """Choose few slices that together show every label.

    Args:
        labels: (Z, Y, X) whole numbers; 0 is background.
        axis: Axis across the slices.

    Returns:
        Indices along the axis, ascending. The first chosen shows most labels, each further one most
        of those still missing; of equal ones, that with the largest area of them.
    """
    missing = set(np.unique(labels).tolist()) - {0}
    across = tuple({0, 1, 2} - {axis})
    counts = {label: (labels == label).sum(axis=across) for label in missing}
    chosen: list[int] = []
    while missing:
        shown = sum((counts[label] > 0).astype(int) for label in missing)
        area = sum(np.minimum(counts[label], 25) for label in missing)
        best = int(np.lexsort((area, shown))[-1])
        chosen.append(best)
        missing -= {label for label in missing if counts[label][best] > 0}
    return sorted(chosen)


def draw_cases(
    out: Path, cases: Mapping[str, Sequence[np.ndarray]], columns: Sequence[str], *, axis: int = CORONAL
) -> None:
    """Draw a scan and several segmentations of each case.

    Args:
        out: File to write, ``.png``.
        cases: Title → (Z, Y, X) scan, truth and predictions.
        columns: Titles of the label maps: truth and predictions.
        axis: Axis across the slices.
    """
    rows = [
        (title, [volume.take(index, axis) for volume in volumes], display_window(volumes[0]))
        for title, volumes in cases.items()
        for index in slices_with_every_label(volumes[1], axis)
    ]
    figure, panels = _grid(len(rows), 1 + len(columns), rows[0][1][0].shape)
    for row, (title, (scan, *maps), window) in zip(panels, rows, strict=True):
        plane = apply_window(scan, window)
        _show(row[0], plane, f"{title}, scan")
        for panel, labels, name in zip(row[1:], maps, columns, strict=True):
            _show(panel, plane, name)
            panel.imshow(_coloured(labels), origin="lower", interpolation="nearest")
    figure.savefig(out, dpi=110)


def draw_registration(out: Path, fixed: np.ndarray, truth: np.ndarray, moving: Mapping[str, np.ndarray]) -> None:
    """Draw the fixed scan, and the moving one before and after, with the fixed scan's organs.

    Args:
        out: File to write, ``.png``.
        fixed: (Z, Y, X) fixed scan.
        truth: (Z, Y, X) labels of the fixed scan.
        moving: Title → (Z, Y, X) moving scan, before and after the registration.
    """
    rows = slices_with_every_label(truth)
    volumes = {"fixed scan (T1)": fixed, **moving}
    figure, axes = _grid(len(rows), len(volumes), fixed[:, 0].shape)
    for row, index in zip(axes, rows, strict=True):
        for axis, (name, volume) in zip(row, volumes.items(), strict=True):
            _show(axis, apply_window(volume[:, index], display_window(volume)), name)
            for label, colour in enumerate(COLOURS, start=1):
                inside = truth[:, index] == label
                if inside.any():
                    axis.contour(inside, levels=[0.5], colors=[colour], linewidths=1.4)
    figure.savefig(out, dpi=110)


def _grid(rows: int, columns: int, shape: tuple[int, ...]) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    height = 2.6 * shape[0] / shape[1] + 0.3
    figure = Figure(figsize=(2.6 * columns, height * rows), layout="constrained", facecolor="black")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="bilinear")
    axis.set_title(title, fontsize=11, color="white")
    axis.set_axis_off()


def _coloured(labels: np.ndarray) -> np.ndarray:
    """Return the colours of labels; (H, W, 4), transparent where there is none."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*labels.shape, 4))
    for label, colour in enumerate(COLOURS, start=1):
        picture[labels == label] = to_rgba(colour, _ALPHA)
    return picture
