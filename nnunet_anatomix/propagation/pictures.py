"""Figure of propagated labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.atomic import atomic_write
from pretraining.imaging.views import apply_window, display_window

COLUMNS = ("scan", "labels", "agreement, %")
_ALPHA = 0.45


def draw_propagations(out: Path, cases: Mapping[str, tuple[Path, Path, Path]]) -> None:
    """Draw scan, labels and agreement of every case, in the axial slice with the most labels.

    Args:
        out: PNG file, written atomically.
        cases: Title → files of the scan, the labels and the map of agreement in percent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from skimage.color import label2rgb

    figure = Figure(figsize=(3.2 * len(COLUMNS), 3.2 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cases), len(COLUMNS), squeeze=False)
    for axis, column in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(column, fontsize=10)
    for row, (title, files) in zip(axes, cases.items(), strict=True):
        # As in radiology: the patient's right is on the left, the front on top.
        images = [sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS") for file in files]
        scan, labels, agreement = (sitk.GetArrayFromImage(image) for image in images)
        z = int((labels > 0).sum(axis=(1, 2)).argmax())
        grey = apply_window(scan[z].astype(np.float32), display_window(scan[z].astype(np.float32)))
        colours = _colours(int(labels.max()))
        aspect = images[0].GetSpacing()[1] / images[0].GetSpacing()[0]
        row[0].imshow(grey, cmap="gray", aspect=aspect)
        row[1].imshow(label2rgb(labels[z], grey, colors=colours, alpha=_ALPHA, bg_label=0), aspect=aspect)
        shown = row[2].imshow(agreement[z], cmap="viridis", vmin=0, vmax=100, aspect=aspect)
        figure.colorbar(shown, ax=row[2], shrink=0.7)
        row[0].set_ylabel(title, fontsize=9)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    with atomic_write(out) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _colours(greatest: int) -> list[tuple[float, float, float]]:
    """Return one colour per label up to the greatest."""
    from matplotlib import colormaps

    palette = [colormaps["tab20"](index)[:3] for index in range(20)]
    return [palette[label % len(palette)] for label in range(max(1, greatest))]
