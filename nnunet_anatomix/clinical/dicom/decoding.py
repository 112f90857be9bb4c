"""Decoding of pixel data: stored values of each frame, whatever the geometry tags hold.

pydicom decodes uncompressed, deflated and run-length files. All others are decoded by the GDCM in
SimpleITK, from a copy that has only the pixel tags: GDCM refuses some harmless geometry, such as a
SpacingBetweenSlices of 0.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from nnunet_anatomix.clinical.dicom.headers import SliceHeader

_PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelData",
)
_INTEGERS = (np.int16, np.int32)
"""Types of integer images, smallest first."""


def decode_slices(path: Path, slices: Sequence[SliceHeader]) -> Iterator[np.ndarray]:
    """Decode slices of one file.

    Args:
        path: DICOM file of one sample per pixel.
        slices: Headers of the slices to decode, from
            :func:`~nnunet_anatomix.clinical.dicom.expansion.read_slices`.

    Yields:
        Stored values of each slice, (rows, columns), integer.
    """
    if tiles := slices[0].tiles:
        (mosaic,) = _decode_frames(path, [0])
        yield from (_cut_tile(mosaic, header.frame, tiles) for header in slices)
    else:
        yield from _decode_frames(path, [max(0, header.frame - 1) for header in slices])


def _decode_frames(path: Path, indices: list[int]) -> Iterator[np.ndarray]:
    meta = dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Rows"]).file_meta
    syntax = meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated and syntax != RLELossless:
        decoded = _decode_by_gdcm(path)
        yield from (decoded[index] for index in indices)
    elif syntax is None or syntax == DeflatedExplicitVRLittleEndian:
        dataset = dcmread(path, force=True)
        dataset.file_meta.TransferSyntaxUID = syntax or ImplicitVRLittleEndian
        yield from iter_pixels(dataset, indices=indices)
    else:
        yield from iter_pixels(path, indices=indices)


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return ``slope * stored + intercept`` in the smallest type that holds it.

    Args:
        stored: Stored values of any shape, integer.
        slope: RescaleSlope.
        intercept: RescaleIntercept.

    Returns:
        int16 or int32 if slope and intercept are whole numbers and the values fit, else float32.
    """
    low, high = sorted(slope * float(value) + intercept for value in (stored.min(), stored.max()))
    if slope.is_integer() and intercept.is_integer():
        for kind in _INTEGERS:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(kind)
    return (stored * np.float64(slope) + intercept).astype(np.float32)


class SliceStack:
    """Volume filled slice by slice, in a type that holds the values of all of them."""

    def __init__(self, slices: int) -> None:
        self._slices = slices
        self.values: np.ndarray = np.empty(0, np.int16)
        """(Z, Y, X) int16, int32 or float32."""

    def put(self, k: int, plane: np.ndarray) -> None:
        """Set slice k.

        Args:
            k: Index of the slice.
            plane: (Y, X) values; all slices have the same size.
        """
        if not self.values.size:
            self.values = np.zeros((self._slices, *plane.shape), plane.dtype)
        common = np.result_type(self.values, plane)
        if common == np.float64:  # of int32 and float32
            common = np.dtype(np.float32)
        self.values = self.values.astype(common, copy=False)
        self.values[k] = plane


def tiles_per_row(slices: int) -> int:
    """Return the number of slices in each row of a mosaic of so many slices."""
    return math.isqrt(slices - 1) + 1


def _cut_tile(mosaic: np.ndarray, number: int, tiles: int) -> np.ndarray:
    """Return slice ``number``, from 1, of a mosaic with ``tiles`` slices in each row."""
    rows, columns = (length // tiles for length in mosaic.shape)
    row, column = divmod(number - 1, tiles)
    return mosaic[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]


def _decode_by_gdcm(path: Path) -> np.ndarray:
    """Return the stored values of all frames, (frames, rows, columns)."""
    source = dcmread(path, force=True)
    copy = Dataset()
    for keyword in _PIXEL_TAGS:
        if keyword in source:
            copy[keyword] = source[keyword]
    several = int(source.get("NumberOfFrames") or 1) > 1
    copy.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage if several else SecondaryCaptureImageStorage
    copy.SOPInstanceUID = "1.2.3"
    copy.file_meta = FileMetaDataset()
    copy.file_meta.MediaStorageSOPClassUID = copy.SOPClassUID
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    copy.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "pixels.dcm"
        copy.save_as(copied, enforce_file_format=True)
        image = sitk.ReadImage(str(copied), imageIO="GDCMImageIO")
    values = sitk.GetArrayFromImage(image)
    return values if values.ndim == 3 else values[None]
