"""Application of a transform to images and label maps."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from pretraining.common.errors import InputError
from pretraining.imaging.grids import resample_image
from pretraining.imaging.scans import check_geometry

_FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)
_LONG = (sitk.sitkInt64, sitk.sitkUInt64)
"""Types with values that ITK's resampling, which computes in float64, would round."""
_FEW_VALUES = 32
"""Number of different values up to which whole numbers are labels: scans have more."""
_LARGEST_INTENSITY = 65535
"""Whole numbers above this are labels: scanners write 16 bits."""
_EQUAL_NEIGHBOURS = 0.5
"""Share of equal neighbours, outside the background, from which whole numbers are labels."""


def move_image(image: sitk.Image, reference: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Resample an image to another grid through a transform, by linear interpolation.

    Args:
        image: Image with three axes and one number per voxel.
        reference: Any image on the target grid.
        transform: Transform from points of the reference to points of the image.

    Returns:
        The image on the target grid. Its type is kept: integers are rounded. Voxels beyond the
        image have its minimum.

    Raises:
        InputError: If it is not such an image, or contains NaN or infinity.
    """
    check_geometry(image, "image")
    if image.GetPixelID() in _FLOATS:
        values = sitk.GetArrayViewFromImage(image)
        if wrong := int(values.size - np.isfinite(values).sum()):
            raise InputError(f"image: {wrong} of {values.size} voxels are NaN or infinite; replace them")
        return resample_image(image, reference, transform)
    moved = resample_image(sitk.Cast(image, sitk.sitkFloat64), reference, transform)
    return sitk.Cast(sitk.Round(moved), image.GetPixelID())


def move_labels(labels: sitk.Image, reference: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Resample labels to another grid through a transform, by nearest neighbour.

    Args:
        labels: Labels with three axes and one number per voxel.
        reference: Any image on the target grid.
        transform: Transform from points of the reference to points of the labels.

    Returns:
        The labels on the target grid, type and values kept; 0 beyond the labels.

    Raises:
        InputError: If they are not such an image.
    """
    check_geometry(labels, "labels")
    if labels.GetPixelID() not in _LONG:
        return resample_image(labels, reference, transform, nearest=True)
    array = sitk.GetArrayViewFromImage(labels)
    values, numbers = np.unique(array, return_inverse=True)
    numbered = sitk.GetImageFromArray(numbers.reshape(array.shape).astype(np.float64) + 1)
    numbered.CopyInformation(labels)
    moved = sitk.GetArrayFromImage(resample_image(numbered, reference, transform, nearest=True)).astype(np.int64)
    image = sitk.GetImageFromArray(np.concatenate([np.zeros(1, values.dtype), values])[moved])
    image.CopyInformation(reference)
    return image


def looks_like_labels(image: sitk.Image) -> bool:
    """Return whether an image is a label map rather than a scan.

    Args:
        image: Image with one number per voxel.

    Returns:
        Whether all numbers are whole and there are few different ones, or some are larger than a
        scanner's, or most neighbouring voxels outside the most frequent value are equal, as in
        regions and never in noise.
    """
    values = sitk.GetArrayViewFromImage(image)
    if image.GetPixelID() in _FLOATS and not (np.isfinite(values).all() and np.array_equal(values, np.round(values))):
        return False
    if values.max() > _LARGEST_INTENSITY:
        return True
    different, counts = np.unique(values, return_counts=True)
    if len(different) <= _FEW_VALUES:
        return True
    background = different[counts.argmax()]
    pairs = equal = 0
    for axis in range(values.ndim):
        one, other = (np.moveaxis(values, axis, 0)[part] for part in (slice(1, None), slice(None, -1)))
        inside = (one != background) & (other != background)
        pairs += int(inside.sum())
        equal += int((inside & (one == other)).sum())
    return equal > _EQUAL_NEIGHBOURS * pairs
