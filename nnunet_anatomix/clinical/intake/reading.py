"""Reading of the voxels of one series with ITK, checked against the grid of its headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.image_files import open_image_reader
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.imaging.grids import same_grid
from pretraining.imaging.integrity import check_file
from pretraining.imaging.rejection import Unusable

_FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)
_ROUNDED_TAGS_VOX = 0.5
"""Largest distance of GDCM's grid from that of the headers, voxels: GDCM uses rounded direction
cosines, our grid exact ones.
"""
_WIDE = {sitk.sitkInt64: sitk.sitkInt32, sitk.sitkUInt64: sitk.sitkUInt32, sitk.sitkFloat64: sitk.sitkFloat32}
_INT16 = (-(1 << 15), (1 << 15) - 1)


def read_series(root: Path, series: Series) -> sitk.Image:
    """Read the voxels of a series without a problem.

    Args:
        root: Path of the tree.
        series: Series whose ``problem`` is empty.

    Returns:
        3D image of rescaled values (Hounsfield units for CT), int16 if integers fit into it. It has
            no metadata besides the grid, so that no header text reaches the written file.

    Raises:
        Unusable: If pixels cannot be decoded, are NaN or infinite, are all equal, or their grid
            differs from that of the headers.
    """
    if series.kind == "image":
        check_file(root / series.files[0])
    try:
        image = (
            _read_dicom(root, series) if series.kind == "dicom" else open_image_reader(root / series.files[0]).Execute()
        )
    except Exception:  # ITK's messages quote paths
        coding = f" ({series.coding})" if series.coding else ""
        raise Unusable(f"pixel data cannot be decoded{coding}") from None
    while image.GetDimension() > 3:
        image = image[..., 0]
    if not same_grid(image, series.known_grid, within_vox=_ROUNDED_TAGS_VOX):
        raise Unusable("grid of the voxels differs from that of the headers")
    values = sitk.GetArrayViewFromImage(image)
    if image.GetPixelID() in _FLOATS and not np.isfinite(values).all():
        raise Unusable("NaN or infinite voxels")
    low, high = values.min(), values.max()
    if low == high:
        raise Unusable(f"all voxels are {low:g}")
    plain = sitk.Cast(image, _choose_pixel_type(image.GetPixelID(), float(low), float(high)))
    for key in plain.GetMetaDataKeys():
        plain.EraseMetaData(key)
    plain.SetSpacing(series.known_grid.spacing_mm)
    plain.SetOrigin(series.known_grid.origin_mm)
    plain.SetDirection(series.known_grid.direction)
    return plain


def _read_dicom(root: Path, series: Series) -> sitk.Image:
    if series.frames:
        return _read_multi_frame(root / series.files[0], series)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(root / file) for file in series.files])
    if series.rescales_differ:  # otherwise ITK uses the pixel type of the first slice for all
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return reader.Execute()


def _read_multi_frame(path: Path, series: Series) -> sitk.Image:
    """Read a multi-frame file, whose frames may be in any order, in the order of slices."""
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    image = sitk.GetImageFromArray(frames[[number - 1 for number in series.frames]])
    image.SetSpacing(series.known_grid.spacing_mm)
    image.SetOrigin(series.known_grid.origin_mm)
    image.SetDirection(series.known_grid.direction)
    return image


def _choose_pixel_type(pixel_type: int, low: float, high: float) -> int:
    if pixel_type in _FLOATS:
        return sitk.sitkFloat32
    if _INT16[0] <= low and high <= _INT16[1]:
        return sitk.sitkInt16
    return _WIDE.get(pixel_type, pixel_type)
