"""Pictures of one slice: the scan, and beside it the scan with each of several label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pretraining.common.html_page import encode_png
from pretraining.imaging.views import apply_window, display_window

_ALPHA = 0.45


def draw_slices(scan: str | Path, label_maps: Sequence[str | Path]) -> bytes:
    """Draw the axial slice where label maps differ most, or else the one with most labels.

    Args:
        scan: File of a scan.
        label_maps: Files of label maps on its grid.

    Returns:
        PNG: the scan, then the scan with each label map, side by side.
    """
    from skimage.color import label2rgb

    # As in radiology: the patient's right is on the left, the front on top.
    volumes = [sitk.GetArrayFromImage(_upright(path)) for path in (scan, *label_maps)]
    maps = np.stack(volumes[1:]).astype(np.int32)
    differ = (maps != maps[0]).any(0).sum((1, 2))
    z = int((differ if differ.any() else (maps > 0).any(0).sum((1, 2))).argmax())
    voxels = volumes[0].astype(np.float32)
    grey = apply_window(voxels[z], display_window(voxels))
    panels = [np.stack([grey] * 3, axis=-1)]
    colours = _colours(int(maps.max()))
    panels += [label2rgb(labels[z], grey, colors=colours, alpha=_ALPHA, bg_label=0) for labels in maps]
    return encode_png(np.concatenate([_enlarge(panel) for panel in panels], axis=1))


def _upright(path: str | Path) -> sitk.Image:
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    x, y, _ = image.GetSpacing()
    if max(x, y) < 1.05 * min(x, y):
        return image
    size = [round(side * mm / min(x, y)) for side, mm in zip(image.GetSize(), (x, y), strict=False)]
    return sitk.Resample(
        image,
        (*size, image.GetSize()[2]),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        image.GetOrigin(),
        (min(x, y), min(x, y), image.GetSpacing()[2]),
        image.GetDirection(),
    )


def _enlarge(panel: np.ndarray, least: int = 220) -> np.ndarray:
    """Repeat the pixels of a small picture."""
    factor = max(1, round(least / max(panel.shape[:2])))
    return panel.repeat(factor, 0).repeat(factor, 1)


def _colours(greatest: int) -> list[tuple[float, float, float]]:
    from matplotlib import colormaps

    return [colormaps["tab10"](label % 10)[:3] for label in range(max(1, greatest))]
