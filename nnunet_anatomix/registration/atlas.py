"""Many scans brought to one space: an affine atlas that is nobody's own pose, or one that is given (App. B.4.4).

Every scan is aligned to a template by its descriptors; the aligned scans' mean, in the mean of their poses, is the next round's template.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.linalg import expm, logm

from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.initial import Start, best_start
from nnunet_anatomix.registration.scans import checked_labels, checked_scan, read_image
from nnunet_anatomix.registration.warp import LARGEST_FIELD, coverage, image_tensor, index_to_mm, near_isotropic_grid, resampled, tensor_image
from pretraining.atomic import write_text, written_whole
from pretraining.backbone.weights import Weights
from pretraining.errors import CommandFailed, InputError, Interrupted
from pretraining.inference import Clip
from pretraining.interruption import Stop, stop_requests

log = logging.getLogger(__name__)

ATLAS, STATE = "atlas.nii.gz", "alignment.json"
_MEAN_TOLERANCE = 1e-10
"""Of the poses' mean logarithm; dimensionless, and mm for shifts."""

Poses = dict[str, np.ndarray]
"""A scan's name → (4, 4), homogeneous coordinates: points of the template, mm, to points of the scan."""


@dataclass(frozen=True, kw_only=True)
class AtlasScan:
    """One scan of many."""

    name: str
    scan: Path
    labels: Path | None = None
    """To be moved along."""
    group: str = ""
    """Such as its modality: intensities are averaged within one group only."""
    clip: Clip | None = None
    """Intensities that become 0 and 1, e.g. (-450, 450) HU; the least and the greatest if left out."""

    def stamp(self) -> list[Any]:
        """Changes with the scan's file and window."""
        return [*_file_stamp(self.scan), self.clip]

    def read(self) -> sitk.Image:
        """The scan as it is."""
        return checked_scan(read_image(self.scan, self.name), self.name)

    def scaled(self) -> sitk.Image:
        """The scan in [0, 1]."""
        scan = self.read()
        values = sitk.GetArrayViewFromImage(scan)
        low, high = self.clip or (float(values.min()), float(values.max()))
        if values.max() <= low or values.min() >= high:
            raise InputError(f"{self.name}: all intensities lie beyond the window {low:g} to {high:g}; check its clip")
        return sitk.IntensityWindowing(scan, low, high, 0.0, 1.0)


def read_atlas_scans(path: Path, clip: Clip | None = None) -> list[AtlasScan]:
    """Read a CSV with the column ``scan`` and perhaps ``name``, ``labels``, ``group``, ``clip``; paths are relative to its folder.

    Parameters
    ----------
    clip : of the scans whose cell ``clip`` (two numbers, such as ``-450 450``) is empty.

    Raises
    ------
    InputError
        For a missing file, unknown or missing columns, a row without a scan, a clip that is none, or two scans of one name.
    """
    known = [one.name for one in fields(AtlasScan)]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"scans: cannot read {path}: {error}") from None
    if "scan" not in columns or set(columns) - set(known) or not rows:
        raise InputError(f"scans: expected a CSV with the column scan, none but {known}, and a row a scan, found {columns} in {path}")
    scans: dict[str, AtlasScan] = {}
    for number, row in enumerate(rows, 2):
        where = f"scans: line {number} of {path}"
        if not row["scan"] or None in row:
            raise InputError(f"{where} needs a scan, and no more cells than columns")
        name = row.get("name") or Path(row["scan"]).name.removesuffix(".gz").rsplit(".", 1)[0]
        if Path(name).name != name or name.startswith("."):
            raise InputError(f"{where}: '{name}' begins names of files; use letters, digits, - and _")
        if name in scans:
            raise InputError(f"{where}: a second scan called '{name}'; give each a name of its own in a column name")
        scans[name] = AtlasScan(
            name=name,
            scan=path.parent / row["scan"],
            labels=path.parent / row["labels"] if row.get("labels") else None,
            group=row.get("group") or "",
            clip=_window(row["clip"], where) if row.get("clip") else clip,
        )
    return list(scans.values())


@dataclass(frozen=True)
class Template:
    """The mean of scans in given poses, on a grid: what others are aligned to. Made when first looked at."""

    scans: Sequence[AtlasScan]
    poses: Poses
    grid: sitk.Image

    @cached_property
    def key(self) -> str:
        """Changes with all that the template is made of."""
        return _key([(scan.stamp(), self.poses[scan.name].tolist()) for scan in self.scans], _geometry(self.grid))

    @cached_property
    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """The mean, in [0, 1], of the scans that reach a voxel; and where any does."""
        total = torch.zeros(self.grid.GetSize())
        count = torch.zeros_like(total)
        for scan in self.scans:
            image, transform = scan.scaled(), affine_transform(self.poses[scan.name])
            known = coverage(image, self.grid, transform)
            total += image_tensor(resampled(image, self.grid, transform)) * known
            count += known
        return tensor_image(total / count.clamp_min(1), self.grid), tensor_image((count > 0).byte(), self.grid)


def mean_pose(poses: Sequence[np.ndarray]) -> np.ndarray:
    """The affine mean: relative to it, the poses' matrix logarithms sum to 0.

    Parameters
    ----------
    poses : (4, 4) each, homogeneous coordinates, close enough to each other to have real logarithms (no mirror, no half turn between).

    Returns
    -------
    (4, 4). It depends on no choice of coordinates, and the mean of inverses is the inverse of the mean.

    References
    ----------
    Pennec and Arsigny, Exponential Barycenters of the Canonical Cartan Connection and Invariant Means on Lie Groups, 2013.
    """
    mean = poses[0]
    for _ in range(100):
        step = np.mean([logm(pose @ np.linalg.inv(mean)).real for pose in poses], axis=0)
        mean = expm(step) @ mean
        if np.abs(step).max() < _MEAN_TOLERANCE:
            break
    return mean


def unbiased(template: Template, poses: Poses) -> Template:
    """The mean of the scans that were aligned, without the template's own pose: the mean of all poses is divided out.

    Parameters
    ----------
    template : what the scans were aligned to.
    poses : of the scans to average, to their points from the template's.

    Returns
    -------
    A template on a grid of the same axes and spacing, whose centre and extent follow the mean pose.
    """
    mean = mean_pose(list(poses.values()))
    grid = template.grid
    steps, sides = index_to_mm(grid), np.array(grid.GetSize()) - 1
    stretch = np.linalg.norm(mean[:3, :3] @ steps, axis=0) / np.linalg.norm(steps, axis=0)
    centre = mean[:3, :3] @ (steps @ (sides / 2) + grid.GetOrigin()) + mean[:3, 3]
    sides = np.maximum(np.rint(sides * stretch).astype(int), 1)
    moved = sitk.Image((sides + 1).tolist(), sitk.sitkUInt8)
    moved.SetSpacing(grid.GetSpacing())
    moved.SetDirection(grid.GetDirection())
    moved.SetOrigin((centre - steps @ (sides / 2)).tolist())
    back = np.linalg.inv(mean)
    return Template(template.scans, {name: pose @ back for name, pose in poses.items()}, moved)


def homogeneous(transform: sitk.Transform) -> np.ndarray:
    """(4, 4) of a linear transform."""
    points = np.array([transform.TransformPoint(point) for point in ((0.0, 0.0, 0.0), *np.eye(3).tolist())])
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([*(points[1:] - points[0]), points[0]])
    return matrix


def affine_transform(pose: np.ndarray) -> sitk.AffineTransform:
    """The ITK transform of a (4, 4) matrix."""
    return sitk.AffineTransform(pose[:3, :3].flatten().tolist(), pose[:3, 3].tolist())
