"""Pictures of a displacement: how far, along which lines, and where volumes change."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_anatomix.registration.metrics import determinants
from nnunet_anatomix.registration.pictures import cut_slice, median_voxel, pixels_per_voxel, upright_volume
from nnunet_anatomix.registration.warp import itk_transform
from pretraining.imaging.grids import tensor_image
from pretraining.imaging.views import VIEWS, apply_window, display_window

_LINES = 12
"""Number of lines of the warped grid along the longest side."""
_TINT = 0.55
"""Opacity of colours over the fixed scan."""
_FOLD_COLOUR = (1.0, 0.0, 1.0)


def field_panels(
    fixed: sitk.Image, displacement: Tensor, grid: sitk.Image
) -> tuple[dict[str, list[np.ndarray]], float]:
    """Draw a displacement over the views of :func:`nnunet_anatomix.registration.pictures.panels`.

    Args:
        fixed: Fixed scan.
        displacement: (3, X, Y, Z), voxels of ``grid``.
        grid: Image on the grid of the displacement, over the fixed scan's box.

    Returns:
        View → two panels (H, W, 3) in [0, 1], the length of the displacement with the fixed scan's
        grid as it is warped, and the change of volume (blue for half and less, red for double and
        more, magenta where space folds); and the length that is shown brightest, mm.
    """
    from matplotlib import colormaps
    from scipy import ndimage
    from skimage.transform import resize

    scan = upright_volume(fixed)
    scan = apply_window(scan, display_window(scan))
    middle, pixels = median_voxel(scan), pixels_per_voxel(fixed)
    field = sitk.Cast(itk_transform(displacement, grid).GetDisplacementField(), sitk.sitkVectorFloat32)
    vectors, volumes = upright_volume(field), upright_volume(_volume_change(displacement, grid))
    lengths = np.linalg.norm(vectors, axis=-1)
    longest_mm = max(float(np.percentile(lengths, 99.5)), 1e-3)
    index = _on_other_grid(middle, fixed, field)
    spacing_mm = np.array(sitk.DICOMOrient(field, "LPS").GetSpacing())
    views = {}
    for view, (axes, _) in VIEWS.items():
        grey = cut_slice(scan, middle, axes, pixels)

        def shown(volume: np.ndarray, axes: tuple[int, int] = axes, shape: tuple[int, ...] = grey.shape) -> np.ndarray:
            plane = volume[tuple(slice(None) if axis in axes else index[axis] for axis in range(3))].T
            return resize(plane, shape, order=1)

        length = shown(lengths) / longest_mm
        coloured = _tint(grey, colormaps["viridis"](np.clip(length, 0, 1))[..., :3])
        # Lines at equal distances in the moving scan, seen from the fixed one. Z runs downward.
        step_mm = (spacing_mm * lengths.shape).max() / _LINES
        for axis in axes:
            places = np.arange(lengths.shape[axis]).reshape([-1 if own == axis else 1 for own in range(3)])
            along = places * spacing_mm[axis] + vectors[..., axis] * (-1 if axis == 2 else 1)
            cell = np.floor(shown(along) / step_mm)
            line = (ndimage.morphological_gradient(cell, size=(2, 2)) > 0) & (cell > cell.min())
            coloured[line] = 1.0
        change = shown(volumes)
        diverging = colormaps["RdBu_r"](np.clip((np.log2(np.maximum(change, 1e-3)) + 1) / 2, 0, 1))[..., :3]
        tinted = _tint(grey, diverging)
        tinted[change <= 0] = _FOLD_COLOUR
        views[view] = [coloured, tinted]
    return views, longest_mm


def _tint(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return (1 - _TINT) * grey[..., None] + _TINT * colours


def _volume_change(displacement: Tensor, grid: sitk.Image) -> sitk.Image:
    """Return the Jacobian determinant as an image."""
    return tensor_image(torch.cat([slab for _, slab in determinants(displacement)]), grid)


def _on_other_grid(voxel: list[int], image: sitk.Image, other: sitk.Image) -> list[int]:
    """Return the voxel of another upright volume at a voxel of an upright volume."""
    own, target = (sitk.DICOMOrient(one, "LPS") for one in (image, other))
    x, y, z = voxel
    point = own.TransformIndexToPhysicalPoint((x, y, own.GetSize()[2] - 1 - z))
    x, y, z = (
        min(max(place, 0), side - 1)
        for place, side in zip(target.TransformPhysicalPointToIndex(point), target.GetSize(), strict=True)
    )
    return [x, y, target.GetSize()[2] - 1 - z]
