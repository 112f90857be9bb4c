"""Two windows of one sample in different poses, which decouple anatomy and position in the window.

The paper's two views share their geometry. Cues from the border of a network's window are then
equal in both views and help to tell labels apart. Features that encode the position in the window
cannot guide a registration, however.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from pretraining.common.checks import check_not_negative, check_positive, check_probability, check_within
from pretraining.common.random import happens, noise_seed
from pretraining.common.triple import triple
from pretraining.engine.affine import AffineConfig, recentre, sample_affine
from pretraining.engine.execution import upload
from pretraining.engine.fields import SmoothNoise, smooth_noise
from pretraining.engine.resample import resample_linear
from pretraining.engine.synthesis import Pair
from pretraining.imaging.interpolation import interpolate_at
from pretraining.learning.objectives.sampling import BlockLabel, features_at, flat_index, labels_at_level, unravel

Triple = tuple[int, int, int]
_BEND_BOUND = 2.5
"""Bound of the displacement of the second view, standard deviations."""
_INVERSIONS = 10
"""Number of fixed-point iterations that invert the displacement."""


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Rotation, scale and deformation of the second view, besides the shift."""

    share: float = 0.0
    """Probability that the second view is rotated and scaled, not only shifted by whole voxels."""
    max_rotation_deg: float = 10.0
    """Largest Euler angle, degrees; each is drawn from U[-max, max]."""
    max_scale: float = 0.1
    """Largest change of scale; each axis' scale is drawn from U[1 - max, 1 + max]."""
    bend_std_vox: float = 0.0
    """Standard deviation of a smooth displacement of the posed view along each axis, voxels; 0:
    none. Without it, features may locate a voxel by its distance from structures far away, which
    says little about a local deformation.
    """
    bend_spacing_vox: float = 20.0
    """Distance over which that displacement changes, voxels."""

    def __post_init__(self) -> None:
        check_probability(share=self.share)
        check_not_negative(bend_std_vox=self.bend_std_vox)
        check_positive(bend_spacing_vox=self.bend_spacing_vox)
        check_within("[0, 45]", max_rotation_deg=self.max_rotation_deg)
        check_within("[0, 0.5)", max_scale=self.max_scale)


class MovedViews(NamedTuple):
    """Two windows of a sample.

    Attributes:
        labels: (x, y, z) integers, in the first view's window.
        views: (2, x, y, z), each view in its own window.
        shift_vox: Shift between the windows: voxel v of the first view corresponds to voxel
            v + shift of the second, before rotation.
        matrix: (3, 4) float64, maps a voxel index of the first view to the corresponding index of
            the second, apart from the bend.
        bend: (3, x, y, z), displacement at every voxel of the second view to be added to the index
            in the first view that the inverse of ``matrix`` gives; None: zero.
        bend_bound_vox: Upper bound of that displacement along each axis, voxels.
    """

    labels: Tensor
    views: Tensor
    shift_vox: Triple
    matrix: np.ndarray
    bend: Tensor | None = None
    bend_bound_vox: float = 0.0


@dataclass(frozen=True)
class CommonBox:
    """Overlap of both views, on the grid of one level.

    Attributes:
        labels: (a, b, c) labels of the box, in the first view.
        first: Index of the box's first voxel in the first view, on this level's grid.
        shape: (X, Y, Z) of either view, on this level's grid.
        matrix: (3, 4), maps an index of the first view to the corresponding index of the second, on
            this level's grid, apart from the bend.
        bend: (3, X, Y, Z), as in :class:`MovedViews`, in voxels of this level's grid.
    """

    labels: Tensor
    first: Triple
    shape: Triple
    matrix: np.ndarray
    bend: Tensor | None = None

    def places(self, drawn: Tensor) -> Tensor:
        """Convert (n,) flat positions in the box to (n, 3) voxel indices of the first view."""
        return unravel(drawn, triple(self.labels.shape)) + upload(np.array(self.first), drawn.device)

    def counterparts(self, places: Tensor) -> Tensor:
        """Map voxel indices of the first view to (n, 3) fractional indices of the second."""
        exact = _transform(self.matrix, places)
        if self.bend is not None:
            for _ in range(_INVERSIONS):
                exact = _transform(self.matrix, places - _read_at(self.bend, exact))
        return exact

    def origins(self, counterparts: Tensor) -> Tensor:
        """Map voxel indices of the second view to the first; inverts :meth:`counterparts`."""
        origins = _transform(_invert(self.matrix), counterparts)
        return origins if self.bend is None else origins + _read_at(self.bend, counterparts)

    def nearest(self, counterparts: Tensor) -> Tensor:
        """Round indices of the second view to voxels of it, (n, 3) int64."""
        voxels = counterparts.round().long()
        if self.bend is None:  # the box ends where a counterpart would lie outside
            return voxels
        last = upload(np.array(self.shape) - 1, counterparts.device)
        return voxels.clamp(min=0).minimum(last)

    def positions_in_both(self, drawn: Tensor) -> Tensor:
        """Convert (n,) flat positions in the box to (2, n) flat positions in both views."""
        places = self.places(drawn)
        voxels = torch.stack((places, self.nearest(self.counterparts(places))))
        return flat_index(voxels, self.shape)

    def features_of_both(self, features: Tensor, drawn: Tensor) -> Tensor:
        """Read the features of corresponding voxels in both views.

        Args:
            features: (2, C, X, Y, Z) on this level's grid.
            drawn: (n,) flat positions in the box.

        Returns:
            (2, n, C), the first view before the second.
        """
        return features_at(features, self.positions_in_both(drawn))


def _transform(matrix: np.ndarray, places: Tensor) -> Tensor:
    on_device = upload(matrix.astype(np.float32), places.device)
    return places.float() @ on_device[:, :3].T + on_device[:, 3]


def _invert(matrix: np.ndarray) -> np.ndarray:
    """Invert an affine map (3, 4)."""
    back = np.linalg.inv(matrix[:, :3])
    return np.column_stack([back, -back @ matrix[:, 3]])


def _read_at(field: Tensor, places: Tensor) -> Tensor:
    """Interpolate a (3, X, Y, Z) field at (n, 3) indices; (n, 3)."""
    return interpolate_at(field, [along[:, None, None] for along in places.float().T], beyond="border").flatten(1).T


def move_views(sample: Pair, max_shift_vox: int, generator: Generator, pose: PoseConfig | None = None) -> MovedViews:
    """Cut a randomly placed window out of each view; rotate and scale the second one.

    Args:
        sample: Labels (X, Y, Z) and two views (2, X, Y, Z) of them.
        max_shift_vox: Largest distance between the two windows along each axis, voxels, in
            [0, side); windows are smaller than the sample by this amount.
        generator: Sole source of randomness, on the CPU.
        pose: Rotation and scale of the second view, about the middle of the overlap, and its
            deformation. Default: a shift alone.

    Notes:
        Whole-voxel shifts copy voxels. A rotated view is interpolated trilinearly; where the window
        extends beyond the sample, it has the view's lowest value.
    """
    corners = torch.randint(max_shift_vox + 1, (2, 3), generator=generator).tolist()
    sides = triple(side - max_shift_vox for side in sample.labels.shape)
    first, second = (tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True)) for corner in corners)
    shift = triple(a - b for a, b in zip(*corners, strict=True))
    matrix, bend, bound = np.column_stack([np.eye(3), shift]), None, 0.0
    if pose is not None and happens(pose.share, generator):
        ranges = AffineConfig(
            scale=(1 - pose.max_scale, 1 + pose.max_scale),
            max_rotation_deg=pose.max_rotation_deg,
            max_shear=0.0,
            max_translation_vox=0.0,
            reflect=False,
        )
        affine = sample_affine(ranges, generator)
        low, high = _shifted_overlap(shift, sides)
        middle = (low + high - 1) / 2
        matrix = recentre(affine, middle, middle + shift)
        # From the second window to the first one, and from there to the sample by the corner.
        to_sample = _invert(matrix)
        to_sample[:, 3] += corners[0]
        if pose.bend_std_vox:
            bound = _BEND_BOUND * pose.bend_std_vox
            bend = _draw_bend(sides, pose, generator, sample.views.device).clamp(-bound, bound)
            second_view = _resample_bent(sample.views[1], to_sample, bend)
        else:
            second_view = resample_linear(sample.views[1:], to_sample, sides)[0]
    else:
        second_view = sample.views[1][second]
    return MovedViews(
        sample.labels[first], torch.stack([sample.views[0][first], second_view]), shift, matrix, bend, bound
    )


def _draw_bend(shape: Triple, pose: PoseConfig, generator: Generator, device: torch.device) -> Tensor:
    """Draw a smooth (3, x, y, z) displacement."""
    noise = SmoothNoise(
        scales_vox=(pose.bend_spacing_vox,), stds=(pose.bend_std_vox,), noise_seed=noise_seed(generator)
    )
    return smooth_noise(shape, noise, channels=3, device=device)


def _resample_bent(volume: Tensor, matrix: np.ndarray, bend: Tensor) -> Tensor:
    """Resample (X, Y, Z) by an affine map plus a displacement; outside: the minimum."""
    axes = [torch.arange(side, dtype=torch.float32, device=bend.device) for side in bend.shape[1:]]
    indices = torch.meshgrid(*axes, indexing="ij")
    to_volume = upload(matrix.astype(np.float32), bend.device)
    places = [
        sum(row[i] * indices[i] for i in range(3)) + row[3] + along for row, along in zip(to_volume, bend, strict=True)
    ]
    least = volume.amin()
    return interpolate_at((volume - least)[None], places)[0] + least


def common_box(moved: MovedViews, level: int, block_label: BlockLabel = "centre") -> CommonBox:
    """Compute the overlap of both views, on a grid that was halved ``level`` times.

    Args:
        moved: Views from :func:`move_views`.
        level: Number of halvings of the resolution.
        block_label: Voxel that gives a block its label, see
            :func:`~pretraining.learning.objectives.sampling.labels_at_level`.

    Returns:
        The whole overlap for a shift. For a rotated view, a box inside it.

    Raises:
        ValueError: If the views do not overlap.

    Notes:
        On a coarse grid voxels correspond to within half a coarse voxel: a shift of 3 voxels is 1
        coarse voxel at level 1, and 0 at level 3.
    """
    step = 2**level
    shape = triple(side // step for side in moved.labels.shape)
    linear = moved.matrix[:, :3]
    # A coarse voxel i covers [i * step, (i + 1) * step); its centre is (i + 1/2) * step - 1/2.
    half = (step - 1) / 2
    matrix = np.column_stack([linear, (linear.sum(axis=1) * half + moved.matrix[:, 3] - half) / step])
    low, high = _overlap(matrix, np.rint(np.array(moved.shift_vox) / step).astype(int), shape)
    bend = None
    if moved.bend is not None:
        bend = functional.avg_pool3d(moved.bend, step) / step
        low, high = _shrink(low, high, math.ceil(moved.bend_bound_vox / step))
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    return CommonBox(labels_at_level(moved.labels, level, block_label)[box], low, shape, matrix, bend)


def _shrink(low: Triple, high: Triple, margin: int) -> tuple[Triple, Triple]:
    """Shrink a box by a margin on all sides, but to no less than a third of each side."""
    margins = [min(margin, (end - start) // 3) for start, end in zip(low, high, strict=True)]
    return (
        triple(start + margin for start, margin in zip(low, margins, strict=True)),
        triple(end - margin for end, margin in zip(high, margins, strict=True)),
    )


def _shifted_overlap(shift: Sequence[int] | np.ndarray, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Return the first index and the end of the overlap of two shifted windows, per axis."""
    return np.maximum(0, -np.array(shift)), np.array(shape) + np.minimum(0, -np.array(shift))


def _overlap(matrix: np.ndarray, shift: np.ndarray, shape: Triple) -> tuple[Triple, Triple]:
    """Return the first index and the end of a box inside a rotated second window, per axis."""
    low, high = _shifted_overlap(shift, shape)
    middle, half = (low + high - 1) / 2, (high - low - 1) / 2
    diagonal = np.diag(matrix[:, :3])
    # Largest displacement along each axis by the coordinates along the other two.
    aside = (np.abs(matrix[:, :3]) - np.diag(np.abs(diagonal))) @ half
    centre = matrix[:, :3] @ middle + matrix[:, 3]
    # Half a voxel beyond the outermost centres still rounds to a voxel of the second window.
    before = (centre + 0.499 - aside) / diagonal
    after = (np.array(shape) - 1 + 0.499 - centre - aside) / diagonal
    low, high = np.maximum(low, np.ceil(middle - before)), np.minimum(high, np.floor(middle + after) + 1)
    if (low >= high).any():
        raise ValueError(
            f"the two views of {shape} voxels do not overlap (matrix {matrix.round(2).tolist()}); "
            "lower max_shift_vox or the pose's ranges"
        )
    return triple(int(n) for n in low), triple(int(n) for n in high)
