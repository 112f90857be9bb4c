"""Draw benefit.png: what few labels and few steps give, and MR on CT before and after registration.

``--study`` is the folder of a study of Dataset902 with the starts scratch, stock and weights,
``--registration`` that of a registration of STS_006: T1 (moving) on CT (fixed).
docs/gallery.md has the commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.imaging.views import apply_window, display_window

CASE = "fetal_GA29_operated"
STARTS = {"scratch": "from scratch", "stock": "stock nnU-Net", "weights": "pretrained (ours)"}
COLOURS = ("#4e79a7", "#e15759", "#f28e2b", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7")
SKIN_HU, BONE_HU = -300, 200
LIMB, SLICE = "STS_006", 22
"""Case of Dataset903, and its axial slice."""


def read(file: Path) -> np.ndarray:
    """Read a volume, (Z, Y, X)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def show(axis: Axes, plane: np.ndarray, title: str, labels: np.ndarray | None = None) -> None:
    """Show a slice with anterior up, and labels over it."""
    axis.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="equal")
    if labels is not None:
        picture = np.zeros((*labels.shape, 4))
        for label, colour in enumerate(COLOURS, start=1):
            picture[labels == label] = (*(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)), 0.6)
        axis.imshow(picture, interpolation="nearest", aspect="equal")
    axis.set_title(title, color="white", fontsize=12)


def main() -> None:
    """Read what the command line names, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--registration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    raw = options.data / "nnUNet_raw" / "Dataset902_FetalBrain"
    scan, truth = read(raw / "imagesTs" / f"{CASE}_0000.nii.gz"), read(raw / "labelsTs" / f"{CASE}.nii.gz")
    found = {
        title: read(options.study / "runs" / f"{start}_shots3_seed0" / "predictions" / f"{CASE}.nii.gz")
        for start, title in STARTS.items()
    }
    figure = Figure(figsize=(15, 6.6), layout="constrained", facecolor="black")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1), facecolor="black")
    axes = above.subplots(1, 2 + len(found))
    middle = int(np.argmax((truth > 0).sum(axis=(1, 2))))
    rows, columns = (np.flatnonzero((truth[middle] > 0).any(axis=axis)) for axis in (1, 0))
    window = np.s_[middle, max(rows[0] - 4, 0) : rows[-1] + 5, max(columns[0] - 4, 0) : columns[-1] + 5]
    plane = apply_window(scan, display_window(scan))[window][::-1]
    show(axes[0], plane, "T2 of a fetal brain")
    show(axes[1], plane, "truth", truth[window][::-1])
    for axis, (title, labels) in zip(axes[2:], found.items(), strict=True):
        dice = float(np.mean(list(dice_by_label(truth, labels).values())))
        show(axis, plane, f"{title}: Dice {dice:.2f}", labels[window][::-1])
    limb = options.data / "nnUNet_raw" / "Dataset903_LimbSarcoma" / "imagesTr"
    fixed, moving = (sitk.ReadImage(str(limb / f"{LIMB}_000{channel}.nii.gz")) for channel in (0, 1))
    ct, before = sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(sitk.Resample(moving, fixed))
    after = read(options.registration / "moved.nii.gz")
    for axis, (title, volume, bounds) in zip(
        below.subplots(1, 3),
        (
            ("CT of a thigh, with skin and bone", ct, (SKIN_HU, 600)),
            ("its T1, before registration", before, display_window(before)),
            ("after", after, display_window(before)),
        ),
        strict=True,
    ):
        show(axis, apply_window(volume[SLICE], bounds), title)
        for value, colour in ((SKIN_HU, "#76b7b2"), (BONE_HU, "#f28e2b")):
            axis.contour(ct[SLICE] > value, levels=[0.5], colors=[colour], linewidths=1.6)
    for axis in (*axes, *below.axes):
        axis.set_axis_off()
    figure.savefig(options.out, dpi=80)


if __name__ == "__main__":
    main()
