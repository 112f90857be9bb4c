"""Reading of the voxels of one series with ITK, checked against the grid of its headers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.dicom.decoding import SliceStack, decode_slices, rescale
from nnunet_anatomix.clinical.dicom.expansion import read_slices
from nnunet_anatomix.clinical.dicom.padding import replace_padding
from nnunet_anatomix.clinical.dicom.resampling import resample_slices
from nnunet_anatomix.clinical.intake.image_files import open_image_reader
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.imaging.grids import image_on, same_grid
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
    except MemoryError:
        raise
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
    """Decode each slice by its own header, and resample slices that are not planes of the grid."""
    files = series.files if len(series.files) > 1 else series.files * len(series.frames)
    frames = series.frames or (0,) * len(files)
    slices_of: dict[str, list[int]] = defaultdict(list)
    for k, file in enumerate(files):
        slices_of[file].append(k)
    stack = SliceStack(len(files))
    for file, numbers in slices_of.items():
        headers = {header.frame: header for header in read_slices(root / file, file)}
        chosen = [headers[frames[k]] for k in numbers]
        for k, header, stored in zip(numbers, chosen, decode_slices(root / file, chosen), strict=True):
            plane = rescale(stored, _or(header.slope, 1.0), _or(header.intercept, 0.0))
            if header.modality == "CT":
                plane = replace_padding(plane, series.content.implausible_padding)
            stack.put(k, plane)
    values = stack.values
    if series.positions_mm:
        values = resample_slices(values, series.positions_mm, series.known_grid)
    return image_on(series.known_grid, values)


def _or(number: float | None, default: float) -> float:
    return default if number is None else number


def _choose_pixel_type(pixel_type: int, low: float, high: float) -> int:
    if pixel_type in _FLOATS:
        return sitk.sitkFloat32
    if _INT16[0] <= low and high <= _INT16[1]:
        return sitk.sitkInt16
    return _WIDE.get(pixel_type, pixel_type)
