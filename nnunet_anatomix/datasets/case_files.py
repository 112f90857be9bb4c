"""Conversion of one case of a download: read, check and write image and label."""

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
_MAX_CORNER_DISTANCE = 1.0
"""Maximum distance of the corners of image and label that counts as a rounded header, voxels."""


def convert_case(case: SourceCase, image_out: Path, label_out: Path, values: Mapping[int, int], title: str) -> None:
    """Check a case and write both files, the label last; existing files are kept.

    Args:
        case: Case of the download.
        image_out: ``.nii.gz`` file for the image.
        label_out: ``.nii.gz`` file for the label.
        values: Value in the download → value to write; other values are an error.
        title: Title of the dataset, for messages.

    Raises:
        InputError: If the scan is unreadable, damaged or constant, or the label has another size,
            position or value.
    """
    if image_out.is_file() and label_out.is_file():
        return
    role = f"{title}, {case.image.name}"
    image = read_image(case.image, role)
    scan = validate_scan(image, role)
    label = read_label(case.label, scan, values, title)
    if case.image.name.endswith(ENDING):
        with atomic_write(image_out) as partial:
            shutil.copyfile(case.image, partial)  # faster than compressing again
    else:
        write_image(image_out, image)
    write_image(label_out, label)


def read_label(path: Path, scan: sitk.Image, values: Mapping[int, int], title: str) -> sitk.Image:
    """Read a label map as uint8, with the values and the header to write.

    Args:
        path: File.
        scan: Scan whose grid the labels must share; if the headers differ by rounding only, that of
            the scan is used.
        values: Value in the file → value to write.
        title: Title of the dataset, for messages.

    Returns:
        The label map on the grid of the scan.

    Raises:
        InputError: If size or position differ, or there are fractions or unknown values.
    """
    role = f"{title}, {path.name}"
    image = read_image(path, role)
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetSize() != scan.GetSize():
        raise InputError(
            f"{role}: expected labels of {scan.GetSize()} voxels, as the scan has, found {image.GetSize()}; "
            "download both again"
        )
    if not same_grid(image, scan):
        if (distance := corner_distance_vox(image, scan)) > _MAX_CORNER_DISTANCE:
            raise InputError(
                f"{role}: expected the same grid as the scan, found a header {distance:.1f} voxels off; "
                "download both again"
            )
        log.info("%s: header differs from the scan's by up to %.2f voxels; using the scan's", role, distance)
    found = sitk.GetArrayFromImage(image)
    present = np.unique(found)
    if unknown := [f"{value:g}" for value in present if value not in values]:
        raise InputError(
            f"{role}: expected the values {sorted(values)}, found {unknown[:5]}; "
            "check that this is the right version of the dataset"
        )
    written = np.zeros(found.shape, np.uint8)
    for value in present:
        written[found == value] = values[int(value)]
    label = sitk.GetImageFromArray(written)
    label.CopyInformation(scan)
    return label
