"""Label fusion: atlases that were registered to a scan vote on the label of each of its voxels.

The weights of the vote are uniform, or depend on how well each atlas agrees with the scan around a
voxel. A vote is the trilinear interpolation of an atlas's labels, so a voxel between two structures
is shared between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional

from pretraining.imaging.grids import index_to_mm
from pretraining.imaging.interpolation import interpolate_at

Fusion = Literal["vote", "local", "joint"]
_TINY = 1e-12
"""Lower bound of divisors: of mean differences, which are about 0.01, and of sums of weights."""
_SLAB_VOXELS = 2**18
"""Number of voxels fused at a time."""
_RIDGE = 0.1
"""Weight of the identity that makes the matrices of joint label fusion invertible, relative to
their mean diagonal.
"""


@dataclass(frozen=True, kw_only=True)
class RegisteredAtlas:
    """An atlas and its registration to the scan.

    Attributes:
        name: Name of the case.
        labels: (X, Y, Z) integers on the atlas's own grid.
        label_grid: Image on that grid.
        displacement: (3, x, y, z), voxels of ``grid``, from the scan towards the atlas.
        start: Linear transform that follows the displacement, from points of the scan's space to
            points of the atlas.
        grid: Image on the grid of the displacement, which covers the scan.
        difference: (x, y, z), mean squared difference of the descriptors of the scan and of the
            moved atlas, on ``difference_grid``.
        known: (x, y, z) in {0, 1} on ``difference_grid``, 1 where the atlas's scan covers it.
        difference_grid: Image on a grid that covers the scan.
        moved: Result of :func:`moved_labels`; None if it was not computed.
    """

    name: str
    labels: np.ndarray
    label_grid: sitk.Image
    displacement: Tensor
    start: sitk.Transform
    grid: sitk.Image
    difference: Tensor
    known: Tensor
    difference_grid: sitk.Image
    moved: np.ndarray | None = None


def fusion_weights(
    atlases: Sequence[RegisteredAtlas], fusion: Fusion, *, window_vox: int = 5, sharpness: float = 1.0
) -> Tensor:
    """Compute the weight of each atlas at every voxel of the grid of differences.

    Args:
        atlases: Registered atlases, all on one grid.
        fusion: ``vote`` for equal weights; ``local`` for weights that fall with the mean difference
            around a voxel; ``joint`` for joint label fusion, which also accounts for errors that
            atlases have in common.
        window_vox: Odd side of the cubes over which differences are averaged, voxels.
        sharpness: Power of the inverse difference (``local``) or of the errors (``joint``).

    Returns:
        (N, x, y, z) in [0, 1]; the weights of a voxel sum to 1, or are all 0 where no atlas is
        known.

    References:
        Artaechevarria et al., Combination Strategies in Multi-Atlas Image Segmentation, IEEE TMI
        28(8), 2009 (local weights); Wang et al., Multi-Atlas Segmentation with Joint Label Fusion,
        IEEE TPAMI 35(3), 2013.
    """
    known = torch.stack([atlas.known for atlas in atlases])
    if fusion == "vote":
        return known / known.sum(0).clamp_min(1)
    differences = torch.stack([atlas.difference for atlas in atlases])
    if fusion == "local":
        shares = _window_mean(known, window_vox).clamp_min(_TINY)
        means = (_window_mean(differences * known, window_vox) / shares).clamp_min(_TINY)
        # Relative to the smallest difference of the voxel, so that no power overflows.
        least = torch.where(known > 0, means, torch.inf).amin(0)
        weights = torch.where(known > 0, (least / means).pow(sharpness), 0)
        return weights / weights.sum(0).clamp_min(_TINY)
    return _joint_weights(differences, known, window_vox, sharpness)


def fuse(
    scan: sitk.Image, atlases: Sequence[RegisteredAtlas], weights: Tensor, *, ignore: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Elect the label of every voxel of a scan.

    Args:
        scan: Any image on the scan's grid.
        atlases: Registered atlases.
        weights: (N, x, y, z) from :func:`fusion_weights`.
        ignore: Label whose voxels have no vote. Default: none.

    Returns:
        Two (X, Y, Z) arrays: labels of the type of the first atlas's labels, 0 where no atlas is
        known, and float32 agreement, the share of the votes that the label has, in [0, 1].
    """
    size = scan.GetSize()
    labels = np.zeros(size, dtype=np.result_type(*(atlas.labels.dtype for atlas in atlases)))
    share = np.zeros(size, dtype=np.float32)
    step = max(1, _SLAB_VOXELS // (size[1] * size[2]))
    for first in range(0, size[0], step):
        planes = (first, min(first + step, size[0]))
        positions = _positions(scan, atlases[0].grid, planes)
        at_slab = interpolate_at(weights, _positions(scan, atlases[0].difference_grid, planes), beyond="border")
        candidates, votes = [], []
        for atlas, weight in zip(atlases, at_slab, strict=True):
            corner_labels, corner_votes = _corner_votes(atlas, positions)
            corner_votes *= weight.numpy().ravel()
            if ignore is not None:
                corner_votes[corner_labels == ignore] = 0
            candidates.append(corner_labels)
            votes.append(corner_votes)
        elected, elected_share = _elect(np.concatenate(candidates), np.concatenate(votes))
        shape = (planes[1] - planes[0], *size[1:])
        labels[planes[0] : planes[1]], share[planes[0] : planes[1]] = (
            elected.reshape(shape),
            elected_share.reshape(shape),
        )
    return labels, share


def moved_labels(scan: sitk.Image, atlas: RegisteredAtlas) -> np.ndarray:
    """Return the labels of one atlas on the grid of a scan, (X, Y, Z), by trilinear votes."""
    return fuse(scan, [atlas], torch.ones_like(atlas.known)[None])[0]


def _joint_weights(differences: Tensor, known: Tensor, window_vox: int, sharpness: float) -> Tensor:
    """Minimize the expected error of the vote, whose matrix has the products of differences."""
    count, shape = len(differences), differences.shape[1:]
    errors = differences.sqrt()
    expected = errors.new_empty((count, count, *shape))
    for one in range(count):
        for other in range(one, count):
            product = (errors[one] * errors[other])[None]
            expected[one, other] = expected[other, one] = _window_mean(product, window_vox)[0].pow(sharpness / 2)
    matrices = expected.flatten(2).permute(2, 0, 1)
    ridge = _RIDGE * matrices.diagonal(dim1=1, dim2=2).mean(1).clamp_min(_TINY)
    present = known.flatten(1).T
    # Unknown atlases are uncoupled from the others; their weight is set to 0 afterwards.
    matrices = matrices * present[:, :, None] * present[:, None, :]
    matrices = matrices + torch.diag_embed(ridge[:, None] + (1 - present))
    weights = torch.linalg.solve(matrices, present[..., None])[..., 0] * present
    weights = weights.clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(_TINY)
    return weights.T.reshape(count, *shape)


def _window_mean(volumes: Tensor, side: int) -> Tensor:
    """Average (N, X, Y, Z) over cubes of an odd side, without voxels beyond the border."""
    return functional.avg_pool3d(volumes[:, None], side, stride=1, padding=side // 2, count_include_pad=False)[:, 0]


def _positions(scan: sitk.Image, grid: sitk.Image, planes: tuple[int, int]) -> Tensor:
    """Return where voxels of some planes of the scan lie on a grid, (3, planes, Y, Z), voxels."""
    to_grid = np.linalg.inv(index_to_mm(grid))
    matrix = torch.from_numpy(to_grid @ index_to_mm(scan)).float()
    offset = torch.from_numpy(to_grid @ (np.array(scan.GetOrigin()) - grid.GetOrigin())).float()
    sides = (range(*planes), *(range(side) for side in scan.GetSize()[1:]))
    index = torch.stack(torch.meshgrid(*(torch.tensor(side, dtype=torch.float32) for side in sides), indexing="ij"))
    return (matrix @ index.flatten(1) + offset[:, None]).view(index.shape)


def _corner_votes(atlas: RegisteredAtlas, positions: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and trilinear weights of the eight atlas voxels around moved positions.

    Args:
        atlas: Registered atlas.
        positions: (3, x, y, z), voxels of the displacement's grid.

    Returns:
        (8, V) labels, and (8, V) float32 weights, which are 0 beyond the atlas.
    """
    moved = positions + interpolate_at(atlas.displacement, positions, beyond="border")
    matrix, offset = _to_atlas(atlas)
    return _gather(atlas.labels, (matrix @ moved.flatten(1).double() + offset[:, None]).numpy())


def _to_atlas(atlas: RegisteredAtlas) -> tuple[Tensor, Tensor]:
    """Return the linear map from voxels of the displacement's grid to voxels of the atlas."""
    corners = np.vstack([np.zeros(3), np.eye(3)]) @ index_to_mm(atlas.grid).T + atlas.grid.GetOrigin()
    points = np.array([atlas.start.TransformPoint(corner.tolist()) for corner in corners])
    voxels = (points - atlas.label_grid.GetOrigin()) @ np.linalg.inv(index_to_mm(atlas.label_grid)).T
    return torch.from_numpy((voxels[1:] - voxels[0]).T.copy()), torch.from_numpy(voxels[0])


@numba.njit(cache=True, nogil=True)
def _gather(labels: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = positions.shape[1]
    found = np.zeros((8, count), labels.dtype)
    weights = np.zeros((8, count), np.float32)
    for voxel in range(count):
        x, y, z = positions[0, voxel], positions[1, voxel], positions[2, voxel]
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        for corner in range(8):
            a, b, c = i + (corner >> 2 & 1), j + (corner >> 1 & 1), k + (corner & 1)
            if 0 <= a < labels.shape[0] and 0 <= b < labels.shape[1] and 0 <= c < labels.shape[2]:
                found[corner, voxel] = labels[a, b, c]
                weights[corner, voxel] = (1 - abs(x - a)) * (1 - abs(y - b)) * (1 - abs(z - c))
    return found, weights


@numba.njit(cache=True, nogil=True)
def _elect(candidates: np.ndarray, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidate with the most votes of each column, and its share of them."""
    rows, count = candidates.shape
    elected = np.zeros(count, candidates.dtype)
    share = np.zeros(count, np.float32)
    for voxel in range(count):
        total = np.float32(0)
        best = np.float32(0)
        for row in range(rows):
            total += votes[row, voxel]
        if total <= 0:
            continue
        for row in range(rows):
            if votes[row, voxel] <= 0:
                continue
            label, earlier = candidates[row, voxel], False
            for other in range(row):
                if candidates[other, voxel] == label and votes[other, voxel] > 0:
                    earlier = True
                    break
            if earlier:
                continue
            sum_of_votes = np.float32(0)
            for other in range(row, rows):
                if candidates[other, voxel] == label:
                    sum_of_votes += votes[other, voxel]
            if sum_of_votes > best:
                best = sum_of_votes
                elected[voxel] = label
        share[voxel] = best / total
    return elected, share
