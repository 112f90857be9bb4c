"""Measure how exactly known rigid moves are found, by our rigid registration and by SimpleITK's.

``python -m tests.benchmarks.known_moves --data ../shared/data --out known_moves.csv`` adds the rows
that are missing, and prints the table. Settings were chosen on T1, T2 and PD with seeds 0 to 3; the
default seeds are others.

The moving scan is rotated by 5 to 12 degrees and shifted, by 17 mm on average over the brain. The
error is the mean distance over the brain, mm, from two truths: the move itself, which takes the
pair as lying on each other, and the move after what the same method finds between the scans before
they are moved, as in known_warps.py. Pairs do not lie on each other exactly, so that the first
error has a floor; the second does not see an error that is the same before and after the move.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.register import register
from pretraining.common.tables import markdown_table
from tests.benchmarks.registration_rows import add_row, cpu_seconds, has_row, read_rows

MOVE_MM = 17.0
PAIRS = (("t1", "t2"), ("t1", "pd"), ("t1", "ct"))


def our_rigid(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Register as ``register --solver none --affine rigid`` does."""
    config = RegistrationConfig(solver="none", affine="rigid", descriptors=DescriptorConfig(feature_weight=0))
    return register(fixed, moving, config=config).forward


def simpleitk_rigid(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Register by mutual information in three levels, down to full resolution."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.VersorRigid3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)


METHODS: dict[str, Callable[[sitk.Image, sitk.Image], sitk.Transform]] = {
    "ours": our_rigid,
    "SimpleITK": simpleitk_rigid,
}


def brain_points(labels: sitk.Image) -> np.ndarray:
    """Some points of the brain, (N, 3), mm."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)[::1999, ::-1].tolist()
    return np.array([labels.TransformIndexToPhysicalPoint(voxel) for voxel in voxels])


def moved_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def random_move(scan: sitk.Image, points: np.ndarray, seed: int) -> sitk.VersorRigid3DTransform:
    """Rotate about the middle of a scan and shift; points move by :data:`MOVE_MM` on average."""
    generator = np.random.default_rng(seed)
    axis, direction = generator.normal(size=(2, 3))
    angle = math.radians(generator.uniform(5, 12))
    middle = scan.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in scan.GetSize()])
    direction /= np.linalg.norm(direction)
    least, most = 0.0, 2 * MOVE_MM
    for _ in range(30):
        length = (least + most) / 2
        move = sitk.VersorRigid3DTransform(axis.tolist(), angle, (length * direction).tolist(), middle)
        too_short = mean_distance(moved_points(move, points), points) < MOVE_MM
        least, most = (length, most) if too_short else (least, length)
    return move


def mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102, 103])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = arguments.data / "registration" / "mni_multimodal"
    points = brain_points(sitk.ReadImage(str(folder / "labels_neuromorphometrics.nii.gz")))
    for names in PAIRS:
        fixed, moving = (sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat32) for name in names)
        for method in arguments.methods:
            key = {"pair": "-".join(names), "method": method}
            missing = [seed for seed in arguments.seeds if not has_row(arguments.out, seed=seed, **key)]
            own = METHODS[method](fixed, moving) if missing else sitk.Transform()
            for seed in missing:
                move = random_move(fixed, points, seed)
                begin = cpu_seconds()
                found = METHODS[method](fixed, sitk.Resample(moving, moving, move.GetInverse()))
                seconds = cpu_seconds() - begin
                reached = moved_points(found, points)
                row = {
                    **key,
                    "seed": seed,
                    "own_mm": round(mean_distance(moved_points(own, points), points), 3),
                    "error_mm": round(mean_distance(reached, moved_points(move, points)), 3),
                    "unmoved_against_moved_mm": round(
                        mean_distance(reached, moved_points(move, moved_points(own, points))), 3
                    ),
                    "cpu_seconds": round(seconds, 2),
                }
                add_row(arguments.out, row)
                logging.info("%s", row)
    logging.info("%s", table(read_rows(arguments.out)))


def table(rows: list[dict]) -> str:
    """Means over the moves of each pair."""
    numbers = ("own_mm", "error_mm", "unmoved_against_moved_mm", "cpu_seconds")
    lines = []
    for pair, method in dict.fromkeys((row["pair"], row["method"]) for row in rows):
        same = [row for row in rows if (row["pair"], row["method"]) == (pair, method)]
        means = [f"{np.mean([float(row[number]) for row in same]):.2f}" for number in numbers]
        lines.append([pair, method, str(len(same)), *means])
    return markdown_table(["pair", "method", "moves", *numbers], lines)


if __name__ == "__main__":
    main()
