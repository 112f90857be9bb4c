"""Random affine warp of a patch and its segmentation (Table 9, last row), in one resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor
from torch.nn import functional


def sample_affine(
    rotation_deg: float, scale: tuple[float, float], shear: float, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw an affine matrix: rotation · shear · scale about the origin.

    Args:
        rotation_deg: Bound of the angle about each axis, drawn from U(-rotation_deg, rotation_deg).
        scale: Bounds of the factor along each axis, drawn from U(scale).
        shear: Bound of each of the six off-diagonal terms, drawn from U(-shear, shear).
        rng: Sole source of randomness.

    Returns:
        (3, 3), maps a point of the warped image to the point of the input that it is sampled from.
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-rotation_deg, rotation_deg, 3))):
        rotation = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[second, first] = np.sin(angle)
        rotation[first, second] = -np.sin(angle)
        matrix = matrix @ rotation
    shearing = rng.uniform(-shear, shear, (3, 3))
    np.fill_diagonal(shearing, 1)
    return matrix @ shearing @ np.diag(rng.uniform(*scale, 3))


def warp_affine(
    volume: Tensor,
    matrix: np.ndarray,
    translation_mm: Sequence[float],
    size: Sequence[int],
    spacing_mm: Sequence[float],
    mode: str,
) -> Tensor:
    """Warp ``volume`` about its centre, in one resampling.

    Args:
        volume: (C, X, Y, Z) floating point.
        matrix: (3, 3) from :func:`sample_affine`, acting in millimetres.
        translation_mm: (X, Y, Z), added after ``matrix``.
        size: (X, Y, Z) of the result, voxels.
        spacing_mm: (X, Y, Z), mm.
        mode: Interpolation, ``bilinear`` or ``nearest``.

    Returns:
        ``(C, *size)``; 0 beyond the volume.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    matrix_vox = matrix * spacing / spacing[:, None]
    # grid_sample measures from the centre in half sides, and counts axes from the last. Positions
    # are computed in these units, not in voxels for interpolate_at: they are sums of one line per
    # axis, and a conversion would round augmented patches differently.
    source, target = np.array(volume.shape[1:]) / 2, np.array(size) / 2
    steps, shift = (
        (matrix_vox * target / source[:, None]).tolist(),
        (np.asarray(translation_mm) / spacing / source).tolist(),
    )
    x, y, z = ((2 * torch.arange(side) + 1) / side - 1 for side in size)
    grid = torch.empty(1, *size, 3)
    for axis in range(3):
        along_x, along_y, along_z = steps[axis]
        # Sums of one line per axis are ten times faster than affine_grid.
        torch.add(
            (along_x * x + shift[axis])[:, None, None], (along_y * y)[:, None] + along_z * z, out=grid[0, ..., 2 - axis]
        )
    return functional.grid_sample(volume[None], grid, mode=mode, align_corners=False)[0]


class AffineWarp(BasicTransform):
    """Random affine warp of a patch, identical for image and segmentation.

    Args:
        patch_size: (X, Y, Z) of the result, voxels.
        spacing_mm: (X, Y, Z), mm.
        rotation_deg: Bound of the angle about each axis, see :func:`sample_affine`.
        scale: Bounds of the factor along each axis.
        shear: Bound of the shear of each pair of axes.
        translation: Bound of the translation along each axis, drawn from
            U(-translation, translation), share of the patch's side.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        spacing_mm: Sequence[float],
        rotation_deg: float,
        scale: tuple[float, float],
        shear: float,
        translation: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.spacing_mm = tuple(patch_size), tuple(spacing_mm)
        self.rotation_deg, self.scale, self.shear, self.translation = rotation_deg, scale, shear, translation

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        # nnU-Net seeds NumPy's global state in each worker; torch's is the same in all workers.
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        sides_mm = np.array(self.patch_size) * np.array(self.spacing_mm)
        return {
            "matrix": sample_affine(self.rotation_deg, self.scale, self.shear, rng=rng),
            "translation_mm": rng.uniform(-self.translation, self.translation, 3) * sides_mm,
        }

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return warp_affine(img, size=self.patch_size, spacing_mm=self.spacing_mm, mode="bilinear", **params)

    def _apply_to_regr_target(self, regression_target: Tensor, **params: Any) -> Tensor:
        return self._apply_to_image(regression_target, **params)

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        # Shift by 1, so that voxels outside of the volume become -1, nnU-Net's label for "outside".
        shifted = warp_affine(
            segmentation.float() + 1, size=self.patch_size, spacing_mm=self.spacing_mm, mode="nearest", **params
        )
        return (shifted - 1).to(segmentation.dtype)
