"""What benchmarks of registration share: methods, pairs, and a CSV that is continued row by row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.programs.program import read_program
from nnunet_anatomix.registration.register import Registration, register
from nnunet_anatomix.registration.solvers.ants import AntsConfig
from nnunet_anatomix.registration.solvers.convexadam import ConvexAdamConfig
from nnunet_anatomix.scores.overlap import dice_by_label
from pretraining.backbone.external_weights import load_feature_weights
from pretraining.common.device import has_bf16_units
from pretraining.common.tables import csv_text, markdown_table

BUNDLED = "bundled"
FEATURE_WEIGHT = 0.3
"""Weight of features beside MIND-SSC, chosen on T1, T2, PD and training scans."""
_ALONE = DescriptorConfig(feature_weight=0)
_INTENSITY = DescriptorConfig(feature_weight=0, intensity=True)
_FEATURES = DescriptorConfig(feature_weight=FEATURE_WEIGHT, bf16=has_bf16_units(torch.device("cpu")))
_CUBES_OF_TWO = ConvexAdamConfig(
    smoothness=1.25, regularization="diffusion", adam_spacing=2, iterations=(80,), unfold=False
)
_EVERY_VOXEL = replace(_CUBES_OF_TWO, adam_spacing=1)
_DIFFUSION = ConvexAdamConfig(smoothness=0.8, regularization="diffusion")
_CORRELATION = replace(_DIFFUSION, dissimilarity="correlation")
METHODS = {
    "mind": RegistrationConfig(descriptors=_ALONE),
    "mind+intensity": RegistrationConfig(descriptors=_INTENSITY),
    "mind diffusion": RegistrationConfig(descriptors=_ALONE, convexadam=_DIFFUSION),
    "mind+intensity diffusion": RegistrationConfig(descriptors=_INTENSITY, convexadam=_DIFFUSION),
    "mind cubes of two": RegistrationConfig(descriptors=_ALONE, convexadam=_CUBES_OF_TWO),
    "mind+intensity cubes of two": RegistrationConfig(descriptors=_INTENSITY, convexadam=_CUBES_OF_TWO),
    "mind every voxel": RegistrationConfig(descriptors=_ALONE, convexadam=_EVERY_VOXEL),
    "mind+intensity every voxel": RegistrationConfig(descriptors=_INTENSITY, convexadam=_EVERY_VOXEL),
    "mind correlation": RegistrationConfig(descriptors=_ALONE, convexadam=_CORRELATION),
    "mind+intensity correlation": RegistrationConfig(descriptors=_INTENSITY, convexadam=_CORRELATION),
    "features+mind correlation": RegistrationConfig(descriptors=_FEATURES, convexadam=_CORRELATION),
    "features+mind cubes of two": RegistrationConfig(descriptors=_FEATURES, convexadam=_CUBES_OF_TWO),
    "features+mind": RegistrationConfig(descriptors=_FEATURES),
    "features": RegistrationConfig(descriptors=replace(_FEATURES, mind=False)),
    "ants-mi": RegistrationConfig(solver="ants", descriptors=_ALONE),
    "ants-mi 200x200x0": RegistrationConfig(
        solver="ants", descriptors=_ALONE, ants=AntsConfig(iterations=(200, 200, 0))
    ),
    **{
        name: RegistrationConfig(descriptors=_ALONE, program=read_program(name))
        for name in ("convexadam", "elastix", "greedy")
    },
}
"""Name → settings, without a start. All methods deform from the same start, on the same grid."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two scans with labels, and the intensity ranges to which they are clipped."""

    name: str
    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    clips: dict[str, tuple[float, float]] = field(default_factory=dict)
    spacing_mm: float | None = None
    """Spacing of the working grid. Default: the finest of the fixed scan."""


def register_pair(pair: Pair, method: str, weights: str, init: str = "none") -> Registration:
    """Register a pair with one of the methods."""
    config = replace(METHODS[method], init=init, affine="none", spacing_mm=pair.spacing_mm)
    loaded = load_feature_weights(None if weights == BUNDLED else weights) if uses_features(method) else None
    return register(pair.fixed, pair.moving, config=config, features=loaded, **pair.clips)


def uses_features(method: str) -> bool:
    return method.startswith("features")


def mean_dice(fixed: sitk.Image, moved: sitk.Image) -> float:
    """Mean Dice over the labels that both images have."""
    values = dice_by_label(sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(moved).round().astype(int))
    return float(np.mean(list(values.values())))


def cpu_seconds() -> float:
    """Processor time of this process and its finished children, s."""
    return sum(os.times()[:4])


def variants(methods: Iterable[str], weights: Sequence[str]) -> list[tuple[str, str]]:
    """(method, weights) of every column; methods without features have one."""
    return [(method, one) for method in methods for one in (weights if uses_features(method) else [""])]


def read_rows(path: Path) -> list[dict]:
    """Rows of an earlier run; none if there was none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def has_row(path: Path, **values: object) -> bool:
    """Whether an earlier run wrote the row with these values."""
    return any(all(row[column] == str(value) for column, value in values.items()) for row in read_rows(path))


def add_row(path: Path, row: dict) -> None:
    """Append a row; write the header first."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(csv_text(list(row) if is_new else [], [list(row.values())], digits=None))


def pair_table(rows: list[dict], numbers: Sequence[tuple[str, int]], before: Sequence[tuple[str, int]]) -> str:
    """A row per pair, a column per method and weights: means over the runs of each.

    Args:
        rows: Rows with columns pair, method and weights.
        numbers: Columns of a cell, and their decimals.
        before: Columns of what was before, likewise; of the first method that has the pair.
    """
    columns = list(dict.fromkeys((row["method"], row["weights"]) for row in rows))
    lines = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        mine = [row for row in rows if row["pair"] == pair]
        cells = [[row for row in mine if (row["method"], row["weights"]) == column] for column in columns]
        lines.append(
            [pair, _means(next(cell for cell in cells if cell), before), *(_means(cell, numbers) for cell in cells)]
        )
    names = [f"{method} {Path(weights).stem}".strip() for method, weights in columns]
    return markdown_table(["pair", "before", *names], lines)


def _means(rows: list[dict], columns: Sequence[tuple[str, int]]) -> str:
    if not rows:
        return ""
    return " / ".join(f"{np.mean([float(row[name]) for row in rows]):.{digits}f}" for name, digits in columns)
