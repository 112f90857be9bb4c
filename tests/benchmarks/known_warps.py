"""Measure how much of a known warp each registration method undoes, on real aligned pairs.

``python -m tests.benchmarks.known_warps --data ../shared/data --out known_warps.csv`` adds the rows
that are missing, and prints the table. T1, T2 and PD are for choosing settings; what has CT is only
reported.
"""

from __future__ import annotations

import argparse
import csv
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from nnunet_anatomix.registration.warp import warp
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.backbone.weights import find_weights, load_weights
from pretraining.common.device import has_bf16_units
from pretraining.common.tables import csv_text, markdown_table
from pretraining.imaging.grids import image_tensor, resample_image, tensor_image

MAX_MM = 12.0
KNOTS_MM = 40.0
_BF16 = has_bf16_units(torch.device("cpu"))
METHODS = {
    "mind": RegistrationConfig(init="none", descriptors=DescriptorConfig(feature_weight=0)),
    "features+mind": RegistrationConfig(init="none", descriptors=DescriptorConfig(bf16=_BF16)),
    "features": RegistrationConfig(init="none", descriptors=DescriptorConfig(mind=False, bf16=_BF16)),
    "ants-mi": RegistrationConfig(init="none", solver="ants", descriptors=DescriptorConfig(feature_weight=0)),
    "ants-features": RegistrationConfig(init="none", solver="ants", descriptors=DescriptorConfig(bf16=_BF16)),
    "ants-mi 200x200x0": RegistrationConfig(
        init="none",
        solver="ants",
        descriptors=DescriptorConfig(feature_weight=0),
        ants=AntsConfig(iterations=(200, 200, 0)),
    ),
    "ants-features 200x200x0": RegistrationConfig(
        init="none", solver="ants", descriptors=DescriptorConfig(bf16=_BF16), ants=AntsConfig(iterations=(200, 200, 0))
    ),
}
COLUMNS = ("pair", "seed", "method", "tre_before_mm", "tre_mm", "dice_before", "dice", "folded_percent", "seconds")


def smooth_warp(grid: sitk.Image, seed: int) -> Tensor:
    """(3, X, Y, Z) voxels: random, smooth over :data:`KNOTS_MM`, at most :data:`MAX_MM` long."""
    spacing = torch.tensor(grid.GetSpacing(), dtype=torch.float32)
    knots = [
        max(4, round(side * step / KNOTS_MM) + 3) for side, step in zip(grid.GetSize(), grid.GetSpacing(), strict=True)
    ]
    field = torch.randn((1, 3, *knots), generator=torch.Generator().manual_seed(seed))
    field = functional.interpolate(field, size=grid.GetSize(), mode="trilinear", align_corners=True)
    windows = [max(1, int(KNOTS_MM / step / 2) // 2 * 2 + 1) for step in grid.GetSpacing()]
    for _ in range(3):
        field = functional.avg_pool3d(
            field, windows, stride=1, padding=[side // 2 for side in windows], count_include_pad=False
        )
    field = field[0] * (MAX_MM / field[0].norm(dim=0).max())
    return field / spacing.view(3, 1, 1, 1)


def real_pairs(data: Path) -> Iterator[tuple[str, sitk.Image, sitk.Image, sitk.Image, dict]]:
    """Name, fixed and moving scan, labels of both, and clip windows."""
    brain = data / "registration" / "mni_multimodal"
    labels = sitk.ReadImage(str(brain / "labels_neuromorphometrics.nii.gz"))
    for first, second in (("t1", "t2"), ("t2", "t1"), ("pd", "t1"), ("t1", "ct"), ("ct", "t1")):
        yield (
            f"brain {first}-{second}",
            *(sitk.ReadImage(str(brain / f"{name}.nii.gz")) for name in (first, second)),
            labels,
            {},
        )
    limbs = data / "nnUNet_raw" / "Dataset903_LimbSarcoma"
    for case in ("STS_035", "STS_012"):
        t1, ct = (sitk.ReadImage(str(limbs / "imagesTr" / f"{case}_000{channel}.nii.gz")) for channel in (_T1, _CT))
        tumour = sitk.ReadImage(str(limbs / "labelsTr" / f"{case}.nii.gz"))
        yield f"limb {case} ct-t1", ct, t1, tumour, {"fixed_clip": (-450.0, 450.0)}
        yield f"limb {case} t1-ct", t1, ct, tumour, {"moving_clip": (-450.0, 450.0)}


_T1, _CT = 1, 0


def scored(
    name: str, fixed: sitk.Image, moving: sitk.Image, labels: sitk.Image, clips: dict, seed: int, method: str, weights
) -> dict:
    """One row."""
    truth = smooth_warp(fixed, seed)
    # The moving scan is warped on its own grid: at p it shows what lay at p + truth(p).
    bent = tensor_image(warp(image_tensor(moving)[None], truth, beyond="border")[0], moving)
    their_labels = tensor_image(warp(image_tensor(labels)[None], truth, mode="nearest")[0], moving)
    begin = time.perf_counter()
    registration = register(fixed, bent, config=METHODS[method], weights=weights, **clips)
    seconds = time.perf_counter() - begin
    field = sitk.TransformToDisplacementField(
        registration.forward,
        sitk.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    steps = np.linalg.inv(np.array(fixed.GetDirection()).reshape(3, 3) * np.array(fixed.GetSpacing()))
    found = torch.from_numpy(np.einsum("ij,zyxj->ixyz", steps, sitk.GetArrayFromImage(field))).float()
    body = (
        image_tensor(labels) > 0
        if name.startswith("brain")
        else image_tensor(fixed) > float(threshold_otsu(sitk.GetArrayFromImage(fixed)))
    )
    spacing = torch.tensor(fixed.GetSpacing(), dtype=torch.float32).view(3, 1, 1, 1)

    def error_mm(displacement: Tensor) -> float:
        return ((displacement + warp(truth, displacement, beyond="border")) * spacing).norm(dim=0)[body].median().item()

    def dice(image: sitk.Image) -> float:
        values = dice_by_label(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(image).round().astype(int))
        return float(np.mean(list(values.values())))

    return {
        "pair": name,
        "seed": seed,
        "method": method,
        "tre_before_mm": round(error_mm(torch.zeros_like(truth)), 3),
        "tre_mm": round(error_mm(found), 3),
        "dice_before": round(dice(their_labels), 4),
        "dice": round(dice(resample_image(their_labels, fixed, registration.forward, nearest=True)), 4),
        "folded_percent": round(100 * folded_share(registration.displacement, registration.known), 4),
        "seconds": round(seconds, 1),
    }


def read_rows(path: Path) -> list[dict]:
    """Rows of an earlier run; none if there was none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict]) -> str:
    """A row a pair, a column a method: mean over seeds of the median error, mm / Dice."""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    lines = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        mine = [row for row in rows if row["pair"] == pair]

        def mean(error: str, dice: str, chosen: list[dict]) -> str:
            if not chosen:
                return ""
            mean_error, mean_dice = (np.mean([float(row[column]) for row in chosen]) for column in (error, dice))
            return f"{mean_error:.2f} / {mean_dice:.3f}"

        lines.append(
            # Each warp once, however many methods undid it.
            [pair, mean("tre_before_mm", "dice_before", list({row["seed"]: row for row in mine}.values()))]
            + [mean("tre_mm", "dice", [row for row in mine if row["method"] == method]) for method in methods]
        )
    return markdown_table(["pair", "before", *methods], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["mind", "features+mind", "features"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--pairs", default="", help="only pairs whose name contains this")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weights = load_weights(find_weights()).network()
    pairs = [pair for pair in real_pairs(arguments.data) if arguments.pairs in pair[0]]
    for seed in arguments.seeds:
        for pair in pairs:
            for method in arguments.methods:
                rows = read_rows(arguments.out)
                if any((row["pair"], row["seed"], row["method"]) == (pair[0], str(seed), method) for row in rows):
                    continue
                row = scored(*pair, seed, method, weights)
                with arguments.out.open("a", newline="") as file:
                    file.write(csv_text([] if rows else COLUMNS, [[row[column] for column in COLUMNS]], digits=None))
                logging.info("%s", row)
    logging.info("%s", table(read_rows(arguments.out)))


if __name__ == "__main__":
    main()
