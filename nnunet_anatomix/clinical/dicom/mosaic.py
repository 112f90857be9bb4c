"""Siemens mosaics: one image tiles all slices of a volume, row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from nnunet_anatomix.clinical.dicom.decoding import tiles_per_row
from nnunet_anatomix.clinical.dicom.headers import SliceHeader
from pretraining.imaging.rejection import Unusable

_CSA_CREATOR, _MR_CREATOR = "SIEMENS CSA HEADER", "SIEMENS MR HEADER"


def is_mosaic(header: SliceHeader) -> bool:
    """Return whether a file is a mosaic."""
    return header.modality == "MR" and header.frames == 1 and "MOSAIC" in header.image_type


def tile_headers(path: Path, header: SliceHeader) -> list[SliceHeader]:
    """Return one header per slice of a mosaic, in the order of the tiles.

    Args:
        path: Path of the file.
        header: Header of the file.

    Raises:
        Unusable: If the header does not tell the number, the spacing or the position of the slices.

    Notes:
        ImagePositionPatient belongs to an image of the mosaic's size about the centre of a slice.
        The order of the slices follows the slice normal in the private CSA header; without it, the
        normal of the image.
    """
    dataset = dcmread(path, stop_before_pixels=True, force=True)
    csa = _read_csa(dataset)
    count = _slice_count(dataset, csa)
    if not count:
        raise Unusable("Siemens mosaic without its number of slices (no CSA header): export it as single slices")
    if header.position_mm is None or header.orientation is None or header.pixel_spacing_mm is None:
        raise Unusable("Siemens mosaic without position, orientation or pixel spacing")
    spacing_mm = abs(float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0))
    if not spacing_mm:
        raise Unusable("Siemens mosaic without slice spacing")
    tiles = tiles_per_row(count)
    if header.rows % tiles or header.columns % tiles:
        raise Unusable(
            f"Siemens mosaic of {header.columns}×{header.rows} pixels, which {count} slices do not divide evenly"
        )
    rows, columns = header.rows // tiles, header.columns // tiles
    along_x, along_y = np.reshape(header.orientation, (2, 3))
    normal = np.cross(along_x, along_y)
    stated = csa.get("SliceNormalVector", [])
    if len(stated) == 3 and np.dot(stated, normal) < 0:
        normal = -normal
    row_spacing_mm, column_spacing_mm = header.pixel_spacing_mm
    first_mm = (
        np.array(header.position_mm)
        + along_x * column_spacing_mm * (header.columns - columns) / 2
        + along_y * row_spacing_mm * (header.rows - rows) / 2
    )
    b_value = header.b_value if header.b_value is not None else next(iter(csa.get("B_value", [])), None)
    return [
        replace(
            header,
            rows=rows,
            columns=columns,
            frame=number + 1,
            tiles=tiles,
            b_value=b_value,
            position_mm=tuple((first_mm + number * spacing_mm * normal).tolist()),
        )
        for number in range(count)
    ]


def _slice_count(dataset: Dataset, csa: dict[str, list[float]]) -> int:
    if stated := csa.get("NumberOfImagesInMosaic"):
        return int(stated[0])
    try:
        return int(dataset.private_block(0x0019, _MR_CREATOR)[0x0A].value)
    except (KeyError, TypeError, ValueError):
        return 0


def _read_csa(dataset: Dataset) -> dict[str, list[float]]:
    """Return the numbers of the CSA header that mosaics need: name → values; empty if damaged."""
    from nibabel.nicom import csareader

    try:
        tags = csareader.read(dataset.private_block(0x0029, _CSA_CREATOR)[0x10].value)["tags"]
        names = ("NumberOfImagesInMosaic", "SliceNormalVector", "B_value")
        return {name: [float(value) for value in tags[name]["items"]] for name in names if name in tags}
    except Exception:  # nibabel raises many types for damaged bytes
        return {}
