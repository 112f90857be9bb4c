"""Figure of a scan and its features: three slices, features as colours, channels (as in Fig. 1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from pretraining.backbone.inference import Clip
from pretraining.common.atomic import atomic_write
from pretraining.imaging.feature_colours import RANGE, FeatureColours
from pretraining.imaging.grids import image_tensor
from pretraining.imaging.views import VIEWS, name_row

CHANNELS = 6
"""Number of single channels shown: those that vary most."""
_SAMPLE = 200_000
"""Maximum number of foreground voxels for ranges and principal components."""


def draw_features(path: str | Path, image: sitk.Image, features: Tensor, *, clip: Clip | None = None) -> None:
    """Draw a scan, the principal components of its features as RGB, and single channels, to scale.

    Args:
        path: File to write, ``.png``; written atomically.
        image: Scan with three axes and one channel.
        features: (C, X, Y, Z) on the grid of the scan.
        clip: Intensities shown black and white. Default: quantiles of the foreground.

    Notes:
        Rows are axial, coronal and sagittal slices through the middle of the foreground, in
        radiological convention: the patient's right is on the left. Components are computed from
        the foreground of the whole volume, so that colours are comparable between slices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    volume, features, spacing_mm = _reorient(image, features)
    foreground = _foreground(volume)
    middle = [_median(foreground.sum(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    at = foreground.flatten().nonzero()[:, 0]
    at = at[:: 1 + len(at) // _SAMPLE]
    sample = features.flatten(1)[:, at]
    selected = sample.std(1).argsort(descending=True)[:CHANNELS].sort().values.tolist()
    low, high = clip or volume.flatten()[at].quantile(torch.tensor(RANGE)).tolist()
    ranges = sample.quantile(torch.tensor(RANGE), dim=1).T.tolist()
    colours = FeatureColours(sample)

    extents = np.array(volume.shape) * spacing_mm
    heights = [max(extents[down], extents.max() / 8) for (_, down), _ in VIEWS.values()]
    width = max(extents[right] for (right, _), _ in VIEWS.values())
    inches, columns = 2.2 / width, 2 + len(selected)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(columns * 2.25, sum(heights) * inches + 0.5), layout=layout, facecolor="black")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(VIEWS), columns, gridspec_kw={"height_ratios": heights}, squeeze=False)
    for row, (view, (axes, _)) in zip(rows, VIEWS.items(), strict=True):
        across = ({0, 1, 2} - set(axes)).pop()
        scan, slices = volume.select(across, middle[across]), features.select(1 + across, middle[across])
        extent = (0, extents[axes[0]], extents[axes[1]], 0)
        row[0].imshow(scan.T.numpy(), cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
        row[1].imshow(colours(slices).permute(2, 1, 0).numpy(), extent=extent, interpolation="bilinear")
        for axis, channel in zip(row[2:], selected, strict=True):
            darkest, brightest = ranges[channel]
            axis.imshow(
                slices[channel].T.numpy(),
                cmap="gray",
                vmin=darkest,
                vmax=brightest,
                extent=extent,
                interpolation="bilinear",
            )
        for axis in row:
            axis.set_axis_off()
        name_row(row[0], view)
    for axis, name in zip(
        rows[0], ("scan", "principal components", *(f"channel {channel}" for channel in selected)), strict=True
    ):
        axis.set_title(name, color="white", fontsize=10)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _reorient(image: sitk.Image, features: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
    """Reorient scan, features and spacing so that axes start at the patient's right, front, top."""
    orient = sitk.DICOMOrientImageFilter()
    orient.SetDesiredCoordinateOrientation("LPI")
    volume = image_tensor(orient.Execute(image))
    order, flipped = orient.GetPermuteOrder(), orient.GetFlipAxes()
    features = features.permute(0, *(1 + axis for axis in order)).flip([1 + axis for axis in range(3) if flipped[axis]])
    return volume, features, np.array(image.GetSpacing())[list(order)]


def _foreground(volume: Tensor) -> Tensor:
    """Return the mask of voxels brighter than Otsu's threshold, (X, Y, Z) bool."""
    from skimage.filters import threshold_otsu

    values = volume.numpy()
    sample = values.ravel()[:: 1 + values.size // _SAMPLE]
    low, high = np.quantile(sample, RANGE)
    mask = volume > float(threshold_otsu(np.clip(sample, low, high))) if low < high else volume > low
    return mask if mask.any() else torch.ones_like(mask)


def _median(counts: Tensor) -> int:
    """Return the index of the median of a histogram."""
    return int((counts.cumsum(0) * 2 >= counts.sum()).nonzero()[0])
