"""One case of a download: read, checked, and written as nnU-Net and our registration want it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_anatomix.datasets.layout import SourceCase
from pretraining.common.atomic import atomic_write
from pretraining.common.errors import InputError
from pretraining.imaging.grids import corner_distance_vox, same_grid
from pretraining.imaging.scans import read_image, validate_scan
from pretraining.imaging.writing import write_image

log = logging.getLogger(__name__)

ENDING = ".nii.gz"
_APART_VOXELS = 1.0
"""Greatest distance of an image's and a label's corners that still is a rounded header, no other
place.
"""


def convert_case(case: SourceCase, image_out: Path, label_out: Path, values: Mapping[int, int], title: str) -> None:
    """Check a case and write both files, the label last; what is there already stays.

    Args:
        image_out, label_out: ``.nii.gz`` files.
        values: Value in the download → value to write; other values are refused.
        title: Of the dataset, for messages.

    Raises:
        InputError: For unreadable, damaged or constant scans, labels of another size, place or
            value.
    """
    if image_out.is_file() and label_out.is_file():
        return
    role = f"{title}, {case.image.name}"
    image = read_image(case.image, role)
    scan = validate_scan(image, role)
    label = read_label(case.label, scan, values, title)
    if case.image.name.endswith(ENDING):
        with atomic_write(image_out) as partial:
            shutil.copyfile(case.image, partial)  # as it is, and faster than compressing again
    else:
        write_image(image_out, image)
    write_image(label_out, label)


def read_label(path: Path, scan: sitk.Image, values: Mapping[int, int], title: str) -> sitk.Image:
    """A label map as uint8 with the values and the header to write.

    Args:
        scan: Whose grid the labels must lie on; where their header differs by rounding alone, the
            scan's is taken.
        values: Value in the file → value to write.

    Raises:
        InputError: For another size or place, fractions, or values that are not named.
    """
    role = f"{title}, {path.name}"
    image = read_image(path, role)
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetSize() != scan.GetSize():
        raise InputError(
            f"{role}: expected labels of {scan.GetSize()} voxels as the scan, found {image.GetSize()}; download both again"
        )
    if not same_grid(image, scan):
        if (apart := corner_distance_vox(image, scan)) > _APART_VOXELS:
            raise InputError(
                f"{role}: its header puts it {apart:.1f} voxels off its scan, expected one grid for both; download again"
            )
        log.info("%s: its header differs from the scan's by up to %.2f voxels; the scan's is taken", role, apart)
    found = sitk.GetArrayFromImage(image)
    present = np.unique(found)
    if unknown := [f"{value:g}" for value in present if value not in values]:
        raise InputError(
            f"{role}: holds the values {unknown[:5]}, expected {sorted(values)}; is this another version of the dataset?"
        )
    written = np.zeros(found.shape, np.uint8)
    for value in present:
        written[found == value] = values[int(value)]
    label = sitk.GetImageFromArray(written)
    label.CopyInformation(scan)
    return label
