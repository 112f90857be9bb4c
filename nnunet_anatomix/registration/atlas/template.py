"""Template of a groupwise alignment: mean of scans in the mean of their poses (App. B.4.4).

Every scan is aligned to a template by its descriptors. The mean of the aligned scans, in the mean
of their poses, is the template of the next round, so that no single scan's pose biases the atlas.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.linalg import expm, logm

from pretraining.backbone.inference import Clip
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state, fingerprint
from pretraining.imaging.contrast import check_contrast
from pretraining.imaging.grids import coverage, image_tensor, index_to_mm, resample_image, tensor_image
from pretraining.imaging.limits import check_window
from pretraining.imaging.scans import read_image, validate_scan

log = logging.getLogger(__name__)

_MEAN_TOLERANCE = 1e-10
"""Tolerance of the mean logarithm of the poses, dimensionless, and mm for translations."""


Poses = dict[str, np.ndarray]
"""Name of a scan → (4, 4) homogeneous matrix from points of the template to points of it, mm."""


@dataclass(frozen=True, kw_only=True)
class AtlasScan:
    """One scan of a groupwise alignment."""

    name: str
    scan: Path
    labels: Path | None = None
    """Label map, moved with the scan."""
    group: str = ""
    """Group, such as the modality; intensities are averaged within one group only."""
    clip: Clip | None = None
    """Intensities that become 0 and 1, e.g. (-450, 450) HU. Default: minimum and maximum."""

    def __post_init__(self) -> None:
        check_window(self.clip, f"{self.name}: clip")

    def stamp(self) -> list[Any]:
        """Return values that change with the scan's file and clip."""
        return [*file_stamp(self.scan), self.clip]

    def read(self) -> sitk.Image:
        """Read the scan in its own intensities."""
        return validate_scan(read_image(self.scan, self.name), self.name)

    def read_scaled(self) -> sitk.Image:
        """Read the scan, scaled to [0, 1]."""
        scan = self.read()
        check_contrast(scan, self.clip, f"{self.name}: clip")
        values = sitk.GetArrayViewFromImage(scan)
        low, high = self.clip or (float(values.min()), float(values.max()))
        return sitk.IntensityWindowing(scan, low, high, 0.0, 1.0)


@dataclass(frozen=True)
class Template:
    """Mean of scans in given poses on a grid, computed when first used."""

    scans: Sequence[AtlasScan]
    poses: Poses
    grid: sitk.Image

    @cached_property
    def key(self) -> str:
        """Digest of everything the template is computed from."""
        return digest([(scan.stamp(), self.poses[scan.name].tolist()) for scan in self.scans], grid_geometry(self.grid))

    @cached_property
    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """Mean of the scans that cover each voxel, in [0, 1], and the mask of covered voxels."""
        total = torch.zeros(self.grid.GetSize())
        count = torch.zeros_like(total)
        for scan in self.scans:
            image, transform = scan.read_scaled(), affine_transform(self.poses[scan.name])
            known = coverage(image, self.grid, transform)
            total += image_tensor(resample_image(image, self.grid, transform)) * known
            count += known
        return tensor_image(total / count.clamp_min(1), self.grid), tensor_image((count > 0).byte(), self.grid)


def mean_pose(poses: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the affine mean, relative to which the poses' matrix logarithms sum to 0.

    Args:
        poses: (4, 4) homogeneous matrices, close enough to each other for real logarithms (no
            reflection or half turn between them).

    Returns:
        (4, 4). It does not depend on the choice of coordinates, and the mean of inverses is the
        inverse of the mean.

    References:
        Pennec and Arsigny, Exponential Barycenters of the Canonical Cartan Connection and Invariant
        Means on Lie Groups, 2013.
    """
    mean = poses[0]
    for _ in range(100):
        step = np.mean([logm(pose @ np.linalg.inv(mean)).real for pose in poses], axis=0)
        mean = expm(step) @ mean
        if np.abs(step).max() < _MEAN_TOLERANCE:
            break
    return mean


def average_unbiased(scans: Sequence[AtlasScan], poses: Poses, grid: sitk.Image) -> Template:
    """Average aligned scans in their mean pose, which removes the pose of the template.

    Args:
        scans: Scans to average.
        poses: Pose of each scan.
        grid: Grid of the template they were aligned to.

    Returns:
        Template on a grid of the same axes and spacing, with centre and extent of the mean pose.
    """
    mean = mean_pose([poses[scan.name] for scan in scans])
    steps, sides = index_to_mm(grid), np.array(grid.GetSize()) - 1
    centre = mean[:3, :3] @ (steps @ (sides / 2) + grid.GetOrigin()) + mean[:3, 3]
    stretch = np.linalg.norm(mean[:3, :3] @ steps, axis=0) / np.linalg.norm(steps, axis=0)
    sides = np.maximum(np.rint(sides * stretch).astype(int), 1)
    moved = sitk.Image((sides + 1).tolist(), sitk.sitkUInt8)
    moved.SetSpacing(grid.GetSpacing())
    moved.SetDirection(grid.GetDirection())
    moved.SetOrigin((centre - steps @ (sides / 2)).tolist())
    back = np.linalg.inv(mean)
    return Template(scans, {scan.name: poses[scan.name] @ back for scan in scans}, moved)


def homogeneous(transform: sitk.Transform) -> np.ndarray:
    """Return the (4, 4) homogeneous matrix of a linear transform."""
    points = np.array([transform.TransformPoint(point) for point in ((0.0, 0.0, 0.0), *np.eye(3).tolist())])
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([*(points[1:] - points[0]), points[0]])
    return matrix


def affine_transform(pose: np.ndarray) -> sitk.AffineTransform:
    """Return the ITK transform of a (4, 4) homogeneous matrix."""
    return sitk.AffineTransform(pose[:3, :3].flatten().tolist(), pose[:3, 3].tolist())


def grid_geometry(grid: sitk.Image) -> list[Any]:
    """Return size, spacing, origin and direction of a grid."""
    return [grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection()]


def file_stamp(path: Path) -> list[Any]:
    """Return values that change with the content of a file.

    Args:
        path: File.

    Returns:
        JSON values.

    Raises:
        InputError: If the file does not exist.
    """
    if not path.is_file():
        raise InputError(f"expected a file at {path}, found none; correct the path")
    return file_state(path)


def digest(*made_from: Any) -> str:
    """Return a short digest of the inputs of a result."""
    return fingerprint(list(made_from))
