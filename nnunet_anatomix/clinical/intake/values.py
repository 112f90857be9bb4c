"""Checks and conversion of the values of a scan that is read: masks, Hounsfield units, SUV."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.clinical.dicom.padding import PADDING_HU, replace_padding
from nnunet_anatomix.clinical.dicom.pet import PetFacts, suv_factor
from nnunet_anatomix.clinical.intake.needs import Channel
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.imaging.rejection import Unusable

AIR_HU = (-1150.0, -850.0)
"""Range in which the darkest voxels of a CT are expected."""
NO_TISSUE_HU = -1500.0
"""Values below this one are padding, not air."""
MAX_HU = 32000.0
"""Largest plausible value: the extended scale ends at about 31 700 HU."""
_ISOLATED_HU = 1000.0
"""Distance of padding from all other values."""
_SAMPLES = 1_000_000


def prepare_values(image: sitk.Image, series: Series, channel: Channel) -> tuple[sitk.Image, str]:
    """Check the values of a scan, and convert them to what a channel needs.

    Args:
        image: Scan from :func:`~nnunet_anatomix.clinical.intake.reading.read_series`.
        series: Its series.
        channel: Channel that it is taken for.

    Returns:
        The scan, and a remark or an empty text.

    Raises:
        Unusable: If the scan is a mask, has impossible Hounsfield units, or has no SUV although the
            channel needs it.
    """
    if series.kind == "dicom":
        _require_intensities(image)
    if channel.kind == "CT" or series.modality == "CT":
        image, remark = _replace_isolated(image)
        return image, "; ".join(filter(None, (remark, _describe_air(image))))
    if channel.wants_suv and series.modality == "PT":
        factor = suv_factor(series.pet or PetFacts(), series.content)
        return sitk.Cast(image, sitk.sitkFloat32) * factor, f"SUV = stored values × {factor:.6g}"
    return image, ""


def _require_intensities(image: sitk.Image) -> None:
    values = sitk.GetArrayViewFromImage(image)
    low, high = values.min(), values.max()
    if all(bool(((plane == low) | (plane == high)).all()) for plane in values):
        raise Unusable(f"all voxels are {low:g} or {high:g}: a mask, not a scan")


def _replace_isolated(image: sitk.Image) -> tuple[sitk.Image, str]:
    """Replace a single value above all plausible ones; raise ``Unusable`` if there are more."""
    values = sitk.GetArrayViewFromImage(image)
    highest = values.max()
    if highest <= MAX_HU:
        return image, ""
    below = values[values < highest]
    if not below.size or below.max() > min(MAX_HU, highest - _ISOLATED_HU):
        raise Unusable(f"values up to {highest:.0f} are not Hounsfield units: sign or rescale tags are wrong")
    signed = values.astype(np.int32) if values.dtype.kind == "u" else values
    replaced = sitk.GetImageFromArray(replace_padding(signed, (float(highest),)))
    replaced.CopyInformation(image)
    return replaced, f"padding of {highest:.0f} HU replaced by {PADDING_HU}"


def _describe_air(image: sitk.Image) -> str:
    values = sitk.GetArrayViewFromImage(image)
    tissue = values.ravel()[:: max(1, values.size // _SAMPLES)]
    tissue = tissue[tissue > NO_TISSUE_HU]
    if not tissue.size:
        return f"no value is above {NO_TISSUE_HU:.0f} HU: check the rescale tags"
    darkest = float(np.percentile(tissue, 1))
    if AIR_HU[0] <= darkest <= AIR_HU[1]:
        return ""
    return f"the darkest voxels have {darkest:.0f} HU, air is expected near -1000: check the rescale tags"
