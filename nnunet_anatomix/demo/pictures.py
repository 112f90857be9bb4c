"""Figures of segmentations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pretraining.imaging.views import apply_window, display_window


def draw_cases(out: Path, cases: Mapping[str, tuple[Path, Path, Path]]) -> None:
    """Draw scan, truth and prediction of every case, in the axial slice with the most foreground.

    Args:
        out: File to write, ``.png``.
        cases: Files of image, truth and prediction by title; the three are on one grid.
    """
    import SimpleITK as sitk
    from matplotlib.figure import Figure
    from skimage.color import label2rgb

    columns = ("scan", "truth", "prediction")
    figure = Figure(figsize=(3 * len(columns), 3 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for row, (title, paths) in zip(axes, cases.items(), strict=True):
        image, truth, prediction = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths)
        z = int((truth > 0).sum(axis=(1, 2)).argmax())
        scan = apply_window(image[z], display_window(image[z]))
        panels = [np.stack([scan] * 3, axis=-1)]
        panels += [
            label2rgb(labels[z], scan, colors=_label_colours(truth, prediction), alpha=0.45, bg_label=0)
            for labels in (truth, prediction)
        ]
        for axis, name, panel in zip(row, columns, panels, strict=True):
            axis.imshow(panel, origin="lower")
            axis.set_title(f"{title}: {name}", fontsize=9)
            axis.set_axis_off()
    figure.savefig(out, dpi=120)


def _label_colours(*label_maps: np.ndarray) -> list[tuple[float, float, float]]:
    """Return one colour per label up to the greatest; a label has the same colour in all panels."""
    from matplotlib import colormaps

    palette = [colormaps["tab10"](index)[:3] for index in range(10)]
    greatest = max(int(labels.max()) for labels in label_maps)
    return [palette[label % len(palette)] for label in range(max(1, greatest))]
