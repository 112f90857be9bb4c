"""Move the labels of one person to another by each registration method: real anatomy, no warps.

``python -m tests.benchmarks.label_propagation --data ../shared/data --out label_propagation.csv``
adds the rows that are missing, and prints the table. No test scan is read: settings may be chosen
here. All methods deform from one affine start of the pair, by MIND-SSC alone, on one grid, so that
only the deformation differs.

- hippocampus: the training scans of Dataset901, all directed pairs.
- fetal brain: the training scans of Dataset902, all directed pairs, working grid of 1.6 mm.
- head and neck: templates/head_neck has labels alone. Each scan of a pair gets intensities of its
  own from the data engine (one per organ, with noise, bias field and blur), as if the two were of
  different modalities: real anatomy of two people in synthetic contrast, grid of 3 mm.
- abdomen: an MR and a CT of two people whose headers do not overlap, grid of 3 mm.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from itertools import chain, islice, permutations
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.metrics import folded_share
from nnunet_anatomix.registration.start.initial import best_start
from pretraining.engine.appearance import AppearanceConfig, apply_appearance, sample_appearance
from pretraining.imaging.grids import image_tensor, near_isotropic_grid, resample_image, tensor_image
from pretraining.imaging.writing import write_transform
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

FETAL_SPACING_MM = 1.6
HEAD_SPACING_MM = 3.0
HEADS = ("0522c0014", "0522c0017", "0522c0057")
"""Patients of head and neck; every one is registered to the next."""


def training_pairs(folder: Path, group: str, spacing_mm: float | None = None) -> Iterator[Pair]:
    """All directed pairs of a dataset's training scans."""
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").glob("*.nii.gz"))
    for fixed, moving in permutations(cases, 2):
        scans = [sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000.nii.gz")) for case in (fixed, moving)]
        labels = [sitk.ReadImage(str(folder / "labelsTr" / f"{case}.nii.gz")) for case in (fixed, moving)]
        yield Pair(
            name=f"{group} {moving} to {fixed}",
            fixed=scans[0],
            moving=scans[1],
            fixed_labels=labels[0],
            moving_labels=labels[1],
            spacing_mm=spacing_mm,
        )


def head_pairs(folder: Path) -> Iterator[Pair]:
    """Pairs of labelled heads in synthetic contrasts."""
    for number, moving in enumerate(HEADS):
        fixed = HEADS[(number + 1) % len(HEADS)]
        labels = [_on_cubes(sitk.ReadImage(str(folder / f"{case}_seg.nii.gz"))) for case in (fixed, moving)]
        yield Pair(
            name=f"head {moving} to {fixed}",
            fixed=_painted(labels[0], 2 * number),
            moving=_painted(labels[1], 2 * number + 1),
            fixed_labels=labels[0],
            moving_labels=labels[1],
        )


def _read_names(folder: Path, kind: str) -> dict:
    return json.loads((folder / f"labels_{kind}.json").read_text(encoding="utf-8"))


def abdomen_names(folder: Path) -> list[str]:
    """Names of the labels that the CT and the MR both have, ordered by number from 1."""
    by_name = [_numbers(_read_names(folder, kind)) for kind in ("ct", "mr")]
    return sorted(by_name[0].keys() & by_name[1].keys())


def abdomen_pair(folder: Path) -> Pair:
    """MR on the CT of another person, with the labels that both have, by name."""
    by_name = [_numbers(_read_names(folder, kind)) for kind in ("ct", "mr")]
    shared = abdomen_names(folder)
    labels = []
    for kind, numbers in zip(("ct", "mr"), by_name, strict=True):
        image = sitk.ReadImage(str(folder / f"{kind}_seg.nii.gz"))
        values = sitk.GetArrayFromImage(image)
        common = np.zeros_like(values)
        for number, name in enumerate(shared, 1):
            common[values == numbers[name]] = number
        labels.append(sitk.GetImageFromArray(common))
        labels[-1].CopyInformation(image)
    ct, mr = (sitk.ReadImage(str(folder / f"{kind}.nii.gz")) for kind in ("ct", "mr"))
    return Pair(
        name="abdomen mr to ct",
        fixed=ct,
        moving=mr,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        clips={"fixed_clip": (-450.0, 450.0)},
    )


GROUPS: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "hippocampus": lambda data: training_pairs(data / "nnUNet_raw" / "Dataset901_Hippocampus", "hippocampus"),
    "abdomen": lambda data: iter([abdomen_pair(data / "registration" / "abdomen_ct_mr")]),
    "head": lambda data: head_pairs(data / "templates" / "head_neck"),
    "fetal": lambda data: training_pairs(data / "nnUNet_raw" / "Dataset902_FetalBrain", "fetal", FETAL_SPACING_MM),
}
"""Name → pairs; names of pairs begin with it."""


def start_of(pair: Pair, folder: Path) -> Path:
    """File with the pair's affine start, found by MIND-SSC unless an earlier run did."""
    path = folder / f"{pair.name.replace(' ', '_')}.tfm"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        clips = (pair.clips.get("fixed_clip"), pair.clips.get("moving_clip"))
        alone = DescriptorConfig(feature_weight=0)
        fixed, moving = (sitk.Cast(image, sitk.sitkFloat32) for image in (pair.fixed, pair.moving))
        write_transform(path, best_start(fixed, moving, alone, net=None, stage="affine", clips=clips).transform)
    return path


def score(pair: Pair, start: Path, method: str, weights: str) -> dict:
    """One row: overlap of the moved labels with those of the fixed scan."""
    begin = cpu_seconds()
    found = register_pair(pair, method, weights, init=str(start))
    seconds = cpu_seconds() - begin
    before = resample_image(pair.moving_labels, pair.fixed_labels, found.start.transform, nearest=True)
    return {
        "pair": pair.name,
        "method": method,
        "weights": weights,
        "dice_start": round(mean_dice(pair.fixed_labels, before), 4),
        "dice": round(mean_dice(pair.fixed_labels, found.apply_labels(pair.moving_labels)), 4),
        "folded_percent": round(100 * folded_share(found.displacement, found.known), 4),
        "cpu_seconds": round(seconds, 1),
    }


def group_table(rows: list[dict]) -> str:
    """Means over the pairs of each group that all methods have: Dice / folds in %."""
    columns = {(row["method"], row["weights"]) for row in rows}
    complete = [
        pair
        for pair in {row["pair"] for row in rows}
        if columns == {(row["method"], row["weights"]) for row in rows if row["pair"] == pair}
    ]
    counts = {
        name: sum(pair.startswith(name) for pair in complete) for name in {row["pair"].split()[0] for row in rows}
    }
    grouped = [
        row | {"pair": f"{(name := row['pair'].split()[0])} ({counts[name]})"}
        for row in rows
        if row["pair"] in complete
    ]
    return pair_table(grouped, [("dice", 3), ("folded_percent", 2)], [("dice_start", 3)])


def _numbers(names: dict) -> dict[str, int]:
    """Name → number of a label file, which may be written either way round."""
    return {value: int(key) for key, value in names.items()} if all(key.isdigit() for key in names) else names


def _on_cubes(labels: sitk.Image) -> sitk.Image:
    return resample_image(labels, near_isotropic_grid(labels, spacing_mm=HEAD_SPACING_MM), nearest=True)


def _painted(labels: sitk.Image, seed: int) -> sitk.Image:
    """An image of labels in intensities of the data engine."""
    values, numbered = torch.unique(image_tensor(labels), return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    return tensor_image(
        apply_appearance(numbered.to(torch.uint8), sample_appearance(AppearanceConfig(), len(values), generator)),
        labels,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="CSV; starts are kept in OUT_starts beside it")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["mind", "features+mind", "features"])
    parser.add_argument("--weights", nargs="+", default=[BUNDLED], help="weights files of features; bundled")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--at-most", type=int, help="number of pairs of each group; all if left out")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    starts = arguments.out.with_name(f"{arguments.out.stem}_starts")
    groups = [islice(GROUPS[group](arguments.data), arguments.at_most) for group in arguments.groups]
    for pair in chain.from_iterable(groups):
        for method, weights in variants(arguments.methods, arguments.weights):
            if not has_row(arguments.out, pair=pair.name, method=method, weights=weights):
                row = score(pair, start_of(pair, starts), method, weights)
                add_row(arguments.out, row)
                logging.info("%s", row)
    logging.info("%s", group_table(read_rows(arguments.out)))


if __name__ == "__main__":
    main()
