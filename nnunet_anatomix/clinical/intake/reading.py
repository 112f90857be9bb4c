"""The voxels of one series, through GDCM or ITK's other readers, on the grid that its headers promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.intake.image_files import image_reader
from nnunet_anatomix.clinical.intake.series import Series
from nnunet_anatomix.clinical.phrases import Unusable
from pretraining.imaging.grids import same_grid
from pretraining.imaging.integrity import check_file

_FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)
_ROUNDED_TAGS_VOX = 0.5
"""How far GDCM's grid may lie from the headers': GDCM takes direction cosines of three decimals as
they are, our grid makes them exact.
"""
_WIDE = {sitk.sitkInt64: sitk.sitkInt32, sitk.sitkUInt64: sitk.sitkUInt32, sitk.sitkFloat64: sitk.sitkFloat32}
_INT16 = (-(1 << 15), (1 << 15) - 1)


def read_series(root: Path, series: Series) -> sitk.Image:
    """Read a sound series.

    Returns:
        3D, rescaled values (Hounsfield units for CT), int16 where whole numbers fit; no metadata
        beside the grid, so that nothing of a header can get into what is written.

    Raises:
        Unusable: If pixels cannot be decoded, are NaN or infinite, are all the same, or lie on
            another grid than the headers say.
    """
    if series.kind == "image":
        check_file(root / series.files[0])
    try:
        image = _dicom(root, series) if series.kind == "dicom" else image_reader(root / series.files[0]).Execute()
    except Exception:  # ITK's messages quote paths
        coding = f" ({series.coding})" if series.coding else ""
        raise Unusable(f"pixel data cannot be decoded{coding}") from None
    while image.GetDimension() > 3:
        image = image[..., 0]
    if not same_grid(image, series.placed, within_vox=_ROUNDED_TAGS_VOX):
        raise Unusable("voxels lie on another grid than the headers say")
    values = sitk.GetArrayViewFromImage(image)
    if image.GetPixelID() in _FLOATS and not np.isfinite(values).all():
        raise Unusable("NaN or infinite voxels")
    low, high = values.min(), values.max()
    if low == high:
        raise Unusable(f"all voxels are {low:g}")
    plain = sitk.Cast(image, _pixel_type(image.GetPixelID(), float(low), float(high)))
    for key in plain.GetMetaDataKeys():
        plain.EraseMetaData(key)
    plain.SetSpacing(series.placed.spacing_mm)
    plain.SetOrigin(series.placed.origin_mm)
    plain.SetDirection(series.placed.direction)
    return plain


def _dicom(root: Path, series: Series) -> sitk.Image:
    if series.frames:
        return _multi_frame(root / series.files[0], series)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(root / file) for file in series.files])
    if series.rescales_differ:  # else the first slice's type would be all slices'
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return reader.Execute()


def _multi_frame(path: Path, series: Series) -> sitk.Image:
    """Frames in the order of slices, on the grid of their own tags: files hold them in any order."""
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    image = sitk.GetImageFromArray(frames[[number - 1 for number in series.frames]])
    image.SetSpacing(series.placed.spacing_mm)
    image.SetOrigin(series.placed.origin_mm)
    image.SetDirection(series.placed.direction)
    return image


def _pixel_type(pixel_type: int, low: float, high: float) -> int:
    if pixel_type in _FLOATS:
        return sitk.sitkFloat32
    if _INT16[0] <= low and high <= _INT16[1]:
        return sitk.sitkInt16
    return _WIDE.get(pixel_type, pixel_type)
