"""Two windows of one sample in different poses, so that the place in a window says nothing about the anatomy in it.

The paper's two views share their geometry. Cues that a network takes from the border of its window
are then equal in both views and help to tell labels apart, but features that encode the place in
the window cannot guide a registration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.common.checks import check_probability, check_within
from pretraining.common.random import happens
from pretraining.common.triple import triple
from pretraining.engine.affine import AffineConfig, recentre, sample_affine
from pretraining.engine.resample import resample_linear
from pretraining.engine.synthesis import Pair
from pretraining.learning.objectives.sampling import BlockLabel, features_at, flat_index, labels_at_level, unravel

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Rotation and scale of the second view against the first, beside the shift."""

    share: float = 0.0
    """Probability that a sample's second view is rotated and scaled; the others are shifted by
    whole voxels only.
    """
    max_rotation_deg: float = 10.0
    """Each Euler angle is drawn from U[-max, max], degrees."""
    max_scale: float = 0.1
    """Each axis' scale is drawn from U[1 - max, 1 + max]."""

    def __post_init__(self) -> None:
        check_probability(share=self.share)
        check_within("[0, 45]", max_rotation_deg=self.max_rotation_deg)
        check_within("[0, 0.5)", max_scale=self.max_scale)


class MovedViews(NamedTuple):
    """Two windows of a sample.

    Attributes:
        labels: (x, y, z) integers, in the first view's window.
        views: (2, x, y, z), each view in its own window.
        shift_vox: Voxel v of the first view shows the place of voxel v + shift of the second,
            before that is turned.
        matrix: (3, 4) float64, from a voxel index of the first view to the index of the same place
            in the second.
    """

    labels: Tensor
    views: Tensor
    shift_vox: Triple
    matrix: np.ndarray


@dataclass(frozen=True)
class CommonBox:
    """Places that both views show, on the grid of one level.

    Attributes:
        labels: (a, b, c) labels of the box, in the first view.
        first: Index of the box's first voxel in the first view, on this level's grid.
        shape: (X, Y, Z) of either view on this level's grid.
        matrix: (3, 4) from an index of the first view to the index of the same place in the second,
            on this level's grid.
    """

    labels: Tensor
    first: Triple
    shape: Triple
    matrix: np.ndarray

    def places(self, drawn: Tensor) -> Tensor:
        """Voxel indices in the first view's window, (n, 3) int64, of flat positions in the box, (n,)."""
        return unravel(drawn, triple(self.labels.shape)) + drawn.new_tensor(self.first)

    def counterparts(self, places: Tensor) -> Tensor:
        """Where the same places, given in the first view, lie in the second: (n, 3) float32 voxel indices, fractions included."""
        return _mapped(self.matrix, places)

    def origins(self, counterparts: Tensor) -> Tensor:
        """Where places, given in the second view, lie in the first: the inverse of :meth:`counterparts`."""
        back = np.linalg.inv(self.matrix[:, :3])
        return _mapped(np.column_stack([back, -back @ self.matrix[:, 3]]), counterparts)

    def features_of_both(self, features: Tensor, drawn: Tensor) -> Tensor:
        """Read the features of the same places in both views.

        Args:
            features: (2, C, X, Y, Z) on this level's grid.
            drawn: (n,) flat positions in the box.

        Returns:
            (2, n, C).
        """
        places = self.places(drawn)
        both = torch.stack((places, self.counterparts(places).round().long()))
        return features_at(features, flat_index(both, self.shape))


def _mapped(matrix: np.ndarray, places: Tensor) -> Tensor:
    on_device = torch.as_tensor(matrix, dtype=torch.float32).to(places.device, non_blocking=True)
    return places.float() @ on_device[:, :3].T + on_device[:, 3]


def move_views(sample: Pair, max_shift_vox: int, generator: Generator, pose: PoseConfig | None = None) -> MovedViews:
    """Cut a window out of each view, at places drawn independently; rotate and scale the second one.

    Args:
        sample: Labels (X, Y, Z) and two views (2, X, Y, Z) of them.
        max_shift_vox: Largest distance of the two windows along each axis, voxels, in [0, side);
            windows are smaller than the sample by this amount.
        generator: Sole source of randomness, on the CPU.
        pose: Rotation and scale of the second view, about the middle of what both windows show;
            None for a shift alone.

    Notes:
        Whole-voxel shifts copy voxels. A rotated view is interpolated trilinearly, and shows its
        least value where the window reaches beyond the sample.
    """
    corners = torch.randint(max_shift_vox + 1, (2, 3), generator=generator).tolist()
    sides = triple(side - max_shift_vox for side in sample.labels.shape)
    first, second = (tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True)) for corner in corners)
    shift = triple(a - b for a, b in zip(*corners, strict=True))
    matrix = np.column_stack([np.eye(3), shift])
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
        back = np.linalg.inv(matrix[:, :3])
        # From the second window to the sample: back into the first window, and from there on by its
        # corner.
        to_sample = np.column_stack([back, corners[0] - back @ matrix[:, 3]])
        moved = resample_linear(sample.views[1:], to_sample, sides)[0]
    else:
        moved = sample.views[1][second]
    return MovedViews(sample.labels[first], torch.stack([sample.views[0][first], moved]), shift, matrix)


def common_box(moved: MovedViews, level: int, block_label: BlockLabel = "centre") -> CommonBox:
    """The box of places that both views show, on a grid that was halved ``level`` times.

    Args:
        moved: From :func:`move_views`.
        level: Halvings of the resolution.
        block_label: Which voxel's label a block has, see
            :func:`~pretraining.learning.objectives.sampling.labels_at_level`.

    Returns:
        The largest box for a shift. For a rotated view, a box whose corners the second view shows.

    Raises:
        ValueError: If the views do not overlap.

    Notes:
        On a coarse grid places agree to half a voxel of it: a shift of 3 voxels is 1 there at level
            1, and 0 at level 3.
    """
    step = 2**level
    shape = triple(side // step for side in moved.labels.shape)
    linear = moved.matrix[:, :3]
    # A coarse voxel i covers [i * step, (i + 1) * step), so its centre lies at (i + 1/2) * step -
    # 1/2.
    half = (step - 1) / 2
    matrix = np.column_stack([linear, (linear.sum(axis=1) * half + moved.matrix[:, 3] - half) / step])
    low, high = _overlap(matrix, np.rint(np.array(moved.shift_vox) / step).astype(int), shape)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    return CommonBox(labels_at_level(moved.labels, level, block_label)[box], low, shape, matrix)


def _shifted_overlap(shift: Sequence[int] | np.ndarray, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
    """First index and the index after the last, per axis, of what two windows of one shape show that lie ``shift`` voxels apart."""
    return np.maximum(0, -np.array(shift)), np.array(shape) + np.minimum(0, -np.array(shift))


def _overlap(matrix: np.ndarray, shift: np.ndarray, shape: Triple) -> tuple[Triple, Triple]:
    """The same for a second window that is turned, too: a box within, which the second window shows to the last corner."""
    low, high = _shifted_overlap(shift, shape)
    middle, half = (low + high - 1) / 2, (high - low - 1) / 2
    diagonal = np.diag(matrix[:, :3])
    aside = (
        np.abs(matrix[:, :3]) - np.diag(np.abs(diagonal))
    ) @ half  # how far the other two axes move a place along this one
    centre = matrix[:, :3] @ middle + matrix[:, 3]
    # Half a voxel beyond the outermost centres still rounds to a voxel of the second window.
    before = (centre + 0.499 - aside) / diagonal
    after = (np.array(shape) - 1 + 0.499 - centre - aside) / diagonal
    low, high = np.maximum(low, np.ceil(middle - before)), np.minimum(high, np.floor(middle + after) + 1)
    if (low >= high).any():
        raise ValueError(
            f"the two views share no place of {shape} (map {matrix.round(2).tolist()}); lower max_shift_vox or the pose"
        )
    return triple(int(n) for n in low), triple(int(n) for n in high)
