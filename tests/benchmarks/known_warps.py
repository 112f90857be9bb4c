"""Measure how much of a known warp each registration method undoes, on real pairs.

``python -m tests.benchmarks.known_warps --data ../shared/data --out known_warps.csv`` adds the rows
that are missing, and prints the tables. T1, T2 and PD are for choosing settings; pairs with CT are
only reported.

The score is *unbent against bent*. A method registers the pair as it is, which yields T0, and again
after the moving scan was bent by a known warp w, which yields T1. Both map points of the fixed scan
to points of the moving scan, so that w(T1(x)) = T0(x) if the warp was undone. The error is the
median over the body of |w(T1(x)) - T0(x)|, mm. The pair's own misalignment is in both terms and
cancels. Dice compares the labels moved by T0 with the bent labels moved by T1 in the same way. A
method that moves nothing scores the length of the warp. Each pair passes a gate first, see
pair_gate.py.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.register import Registration
from nnunet_anatomix.registration.warp import itk_transform, warp
from pretraining.imaging.grids import image_tensor, tensor_image
from tests.benchmarks.pair_gate import gate_table, gated, vectors_mm
from tests.benchmarks.registration_rows import (
    BUNDLED,
    METHODS,
    Pair,
    add_row,
    cpu_seconds,
    has_row,
    mean_dice,
    pair_table,
    read_rows,
    register_pair,
    variants,
)

MAX_MM = 12.0
KNOTS_MM = 40.0
LIMB_SPACING_MM = 2.0
"""Spacing of the working grid of limbs, mm; their voxels are 0.98 x 0.98 x 3.27 mm."""
_CT, _T1 = 0, 1


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


def real_pairs(data: Path, containing: str = "") -> Iterator[Pair]:
    """Pairs of one person, or of averages of people, in two modalities."""
    brain = data / "registration" / "mni_multimodal"
    for first, second in (("t1", "t2"), ("t2", "t1"), ("pd", "t1"), ("t2", "pd"), ("t1", "ct"), ("ct", "t1")):
        if containing in (name := f"brain {first}-{second}"):
            labels = sitk.ReadImage(str(brain / "labels_neuromorphometrics.nii.gz"))
            fixed, moving = (sitk.ReadImage(str(brain / f"{file}.nii.gz")) for file in (first, second))
            yield Pair(name=name, fixed=fixed, moving=moving, fixed_labels=labels, moving_labels=labels)
    limbs = data / "nnUNet_raw" / "Dataset903_LimbSarcoma"
    for case in ("STS_035", "STS_012"):
        for names, channels, clip in (("ct-t1", (_CT, _T1), "fixed_clip"), ("t1-ct", (_T1, _CT), "moving_clip")):
            if containing in (name := f"limb {case} {names}"):
                tumour = sitk.ReadImage(str(limbs / "labelsTr" / f"{case}.nii.gz"))
                fixed, moving = (
                    sitk.ReadImage(str(limbs / "imagesTr" / f"{case}_000{channel}.nii.gz")) for channel in channels
                )
                yield Pair(
                    name=name,
                    fixed=fixed,
                    moving=moving,
                    fixed_labels=tumour,
                    moving_labels=tumour,
                    clips={clip: (-450.0, 450.0)},
                    spacing_mm=LIMB_SPACING_MM,
                )


def bend(pair: Pair, truth: Tensor) -> Pair:
    """Bend the moving scan on its own grid: at p it shows what lay at p + truth(p)."""
    image = warp(image_tensor(pair.moving)[None], truth, beyond="border")[0]
    labels = warp(image_tensor(pair.moving_labels)[None], truth, mode="nearest")[0]
    return replace(
        pair, moving=tensor_image(image, pair.moving), moving_labels=tensor_image(labels, pair.moving_labels)
    )


def score(pair: Pair, seed: int, unbent: Registration, method: str, weights: str) -> dict:
    """One row: the numbers of one warp, undone by one method."""
    truth = smooth_warp(pair.moving, seed)
    bent = bend(pair, truth)
    begin = cpu_seconds()
    found = register_pair(bent, method, weights)
    seconds = cpu_seconds() - begin
    true = itk_transform(truth, pair.moving)
    wanted = vectors_mm(unbent.forward, pair)
    without = sitk.CompositeTransform([true, unbent.forward])
    reached = sitk.CompositeTransform([true, found.forward])

    def error_mm(transform: sitk.Transform) -> float:
        return float(np.median(np.linalg.norm(vectors_mm(transform, pair) - wanted, axis=-1)))

    labels = unbent.apply_labels(pair.moving_labels)
    return {
        "pair": pair.name,
        "seed": seed,
        "method": method,
        "weights": weights,
        "spacing_mm": pair.spacing_mm or "",
        "own_mm": round(float(np.median(np.linalg.norm(wanted, axis=-1))), 3),
        "error_before_mm": round(error_mm(without), 3),
        "error_mm": round(error_mm(reached), 3),
        "dice_before": round(mean_dice(labels, unbent.apply_labels(bent.moving_labels)), 4),
        "dice": round(mean_dice(labels, found.apply_labels(bent.moving_labels)), 4),
        "folded_percent": round(100 * folded_share(found.displacement, found.known), 4),
        "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="CSV; OUT_gate.csv beside it holds the gate")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["mind", "features+mind", "features"])
    parser.add_argument("--weights", nargs="+", default=[BUNDLED], help="weights files of features; bundled")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--pairs", default="", help="only pairs whose name contains this")
    parser.add_argument("--only-gate", action="store_true", help="measure the pairs alone")
    parser.add_argument("--spacing", type=float, help="spacing of the working grid, mm, instead of the default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gate = arguments.out.with_name(f"{arguments.out.stem}_gate.csv")
    for raw in real_pairs(arguments.data, arguments.pairs):
        pair = gated(raw, gate)
        pair = pair if arguments.spacing is None else replace(pair, spacing_mm=arguments.spacing)
        for method, weights in [] if arguments.only_gate else variants(arguments.methods, arguments.weights):
            key = {"pair": pair.name, "method": method, "weights": weights}
            missing = [seed for seed in arguments.seeds if not has_row(arguments.out, seed=seed, **key)]
            unbent = register_pair(pair, method, weights) if missing else None
            for seed in missing:
                assert unbent is not None
                row = score(pair, seed, unbent, method, weights)
                add_row(arguments.out, row)
                logging.info("%s", row)
    numbers = [("error_mm", 2), ("dice", 3), ("folded_percent", 2)]
    logging.info("%s", gate_table(gate))
    if rows := read_rows(arguments.out):
        logging.info("%s", pair_table(rows, numbers, [("error_before_mm", 2)]))


if __name__ == "__main__":
    main()
