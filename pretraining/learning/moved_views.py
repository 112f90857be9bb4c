"""Two windows of one sample, moved against each other, so that the place in a window tells nothing about the anatomy in it.

The paper's two views share their geometry. What a network reads off the border of its window is then the same in both, and helps to tell
labels apart; features that follow the place instead of the anatomy guide no registration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pretraining.engine.synthesis import Pair
from pretraining.learning.sampling import labels_at_level

Steps = tuple[int, int, int]


class MovedViews(NamedTuple):
    """What each view shows of the sample."""

    labels: Tensor
    """(x, y, z), of the first view's window."""
    views: Tensor
    """(2, x, y, z), each view in its own window."""
    shift_vox: Steps
    """Voxel v of the first view shows the place of voxel v + shift of the second."""


class CommonPart(NamedTuple):
    """The box of places that both views show, on the grid of one level."""

    labels: Tensor
    """(a, b, c), of the first view."""
    features: Tensor
    """(2, C, a, b, c), of either view there."""


def move_views(sample: Pair, max_shift_vox: int, generator: Generator) -> MovedViews:
    """Cut a window out of each view, at places drawn apart.

    Parameters
    ----------
    sample : labels (X, Y, Z) and two views (2, X, Y, Z) of them.
    max_shift_vox : how far the windows may lie apart along each axis, in [0, side); they are so much smaller than the sample.
    generator : on the CPU.
    """
    corners = torch.randint(max_shift_vox + 1, (2, 3), generator=generator).tolist()
    sides = [side - max_shift_vox for side in sample.labels.shape]
    first, second = (tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True)) for corner in corners)
    shift = tuple(a - b for a, b in zip(*corners, strict=True))
    return MovedViews(sample.labels[first], torch.stack([sample.views[0][first], sample.views[1][second]]), shift)


def common_part(moved: MovedViews, features: Tensor, level: int) -> CommonPart:
    """What both views show, on a grid that was halved ``level`` times.

    Parameters
    ----------
    features : (2, C, x / 2^level, y / 2^level, z / 2^level).

    Notes
    -----
    On a coarse grid places agree to half a voxel of it: a shift of 3 voxels is 1 there at level 1, and 0 at level 3.
    """
    steps = [round(shift / 2**level) for shift in moved.shift_vox]
    first, second = (
        tuple(slice(max(0, sign * step), side + min(0, sign * step)) for step, side in zip(steps, features.shape[2:], strict=True))
        for sign in (-1, 1)
    )
    inside = torch.stack([features[0][(slice(None), *first)], features[1][(slice(None), *second)]]) if any(steps) else features
    return CommonPart(labels_at_level(moved.labels, level)[first], inside)
